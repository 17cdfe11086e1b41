"""Case discovery, conversion to nnU-Net raw data sets, the phantom."""
