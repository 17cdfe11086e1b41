"""Models and cases for prediction."""

from tiny_model import brats, files, models, predict, shared_data  # noqa: F401  fixtures
