"""Prediction for cases with absent modalities."""
