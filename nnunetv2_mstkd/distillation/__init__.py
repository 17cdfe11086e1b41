"""Losses of tensors, and the objective that adds them up."""
