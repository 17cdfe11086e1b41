"""Experiment planning for MSTKDNet."""
