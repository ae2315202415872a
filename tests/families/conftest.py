"""Lets the tests here, and the configs that they write, import counting.py."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
