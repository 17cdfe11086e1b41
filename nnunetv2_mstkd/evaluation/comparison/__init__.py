"""Comparison of evaluated models: runs, paired statistics, ablation, published numbers, tables."""
