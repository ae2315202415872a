"""Lets the tests here import golden.py: pytest's importlib mode adds no folder."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
