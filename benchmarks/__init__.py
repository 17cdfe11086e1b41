"""Benchmarks: ``python -m benchmarks.NAME [--device DEVICE] [--json OUT]``, from the root of a checkout."""
