"""Lets the tests here import make.py beside them: pytest's importlib mode adds no folder. And the scenes' data."""

import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(scope="module")
def made(request, tmp_path_factory):
    """A root with the data sets of a test file's ROWS; not to be changed."""
    import make_scenes

    root = tmp_path_factory.mktemp("gvb")
    for row in request.module.ROWS:
        make_scenes.MAKERS[row](root)
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy of `made` to damage."""
    return shutil.copytree(made, tmp_path / "gvb")
