"""Lets the tests here import make.py beside them: pytest's importlib mode adds no folder."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
