"""Finished nnU-Net models on disk."""
