"""Lets the tests here import tiny_batches.py: pytest's importlib mode adds no folder."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
