"""BraTS-like folders to nnU-Net raw data sets."""
