"""Which way of training survives missing sequences best, at equal compute, on the built-in phantom.

``python -m benchmarks.phantom_study -o OUT`` does everything through the real commands and can be stopped and
started again at any time. What came out is in docs/benchmarks.md.
"""
