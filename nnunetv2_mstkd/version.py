"""The version of this package, alone in a file so that every module may read it."""

__version__ = "0.1.0"
