"""Evaluation: metrics, every subset of modalities, comparison of models, figures, report."""
