"""Sizes that keep the code readable: a function is one screen, a stage one short file."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("intern_jax", "configs", "examples", "tools")
    for path in (ROOT / folder).rglob("*.py")
)
FUNCTION_LINES, STAGE_LINES = 80, 200


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_longer_than_a_screen(path):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, kinds):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{path}:{node.lineno}: {node.name} has {lines} lines"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "intern_jax" / "stages").glob("*.py")), ids=lambda path: path.name
)
def test_a_stage_is_one_short_file(path):
    assert len(path.read_text("utf-8").splitlines()) <= STAGE_LINES
