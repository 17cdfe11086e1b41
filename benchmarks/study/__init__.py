"""Which way of training survives missing sequences best, at equal compute, on the phantom or on patients.

``python -m benchmarks.study -o OUT`` does everything through the real commands and can be stopped and started
again at any time. What came out is in docs/benchmarks.md.
"""
