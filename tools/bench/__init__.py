"""Programs behind the figures of benchmarks/ that are no training runs; measured.py is the form that they write."""
