"""Data sets as nnU-Net's planner sees them."""

from planned_datasets import brats, large, make_dataset, prostate, slices  # noqa: F401  fixtures
