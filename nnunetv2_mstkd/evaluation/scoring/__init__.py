"""Scoring of segmentations and models."""
