"""The makers of tiny data sets in their true formats lie beside the readers' tests."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "data/gvb"))
# And the rows of a few drawn pictures beside these.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
