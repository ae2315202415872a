"""Lets the tests import noise_row.py, and the makers of tiny data sets, which lie beside the readers' tests."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "data/gvb"))
sys.path.insert(0, str(pathlib.Path(__file__).parent))
