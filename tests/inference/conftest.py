"""Models and cases for prediction."""

from tiny_model import brats, files, models, predict  # noqa: F401  fixtures
