"""A tiny model and cases for it."""

from tiny_model import brats, files, models, predict  # noqa: F401  fixtures
