"""Programs behind the figures of BENCHMARKS.md that are no training runs."""
