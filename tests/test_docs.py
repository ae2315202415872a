"""The documents name what is there: files, make targets, and the names that a config may use."""

import ast
import pathlib
import re

import pytest

from intern_jax.core import config, names

ROOT = pathlib.Path(__file__).parents[1]
PLACES = ("*.md", "docs/*.md", "examples/*.md", "benchmarks/*.md")
DOCS = sorted(path for place in PLACES for path in ROOT.glob(place))
BEGIN, END = "<!-- names: begin -->", "<!-- names: end -->"


def identify(path: pathlib.Path) -> str:
    return path.name


def spans(path: pathlib.Path) -> list[str]:
    """Everything between single backticks, outside of blocks of code."""
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def rows(path: pathlib.Path) -> set[tuple[str, str]]:
    """(kind, dotted name) of the table of names."""
    table = path.read_text("utf-8").split(BEGIN)[1].split(END)[0]
    return set(re.findall(r"^\| ([\w-]+) \| `([\w.]+:\w+)` \|", table, re.MULTILINE))


@pytest.mark.parametrize("path", DOCS, ids=identify)
def test_every_path_in_backticks_is_there(path):
    tops = {entry.name for entry in ROOT.iterdir() if entry.is_dir()}
    found = [text for text in spans(path) if re.fullmatch(r"[\w.-]+(/[\w.*-]*)+", text)]
    for name in [text for text in found if text.split("/")[0] in tops - {"runs"}]:
        assert (ROOT / name).exists() or list(ROOT.glob(name)), f"{path.name}: no {name}"
    files = [text for text in spans(path) if re.fullmatch(r"[A-Z]+\.md|\w+\.toml|Makefile", text)]
    for name in files:
        assert (ROOT / name).exists(), f"{path.name}: no {name}"


@pytest.mark.parametrize("path", DOCS, ids=identify)
def test_every_short_path_is_a_file_of_the_package(path):
    """`data/batches/mixture.py` is short for intern_jax/data/batches/mixture.py."""
    tops = {entry.name for entry in ROOT.iterdir() if entry.is_dir()}
    for name in spans(path):
        if re.fullmatch(r"[a-z_]+(/\w+)*/\w+\.py", name) and name.split("/")[0] not in tops:
            assert (ROOT / "intern_jax" / name).exists(), f"{path.name}: no intern_jax/{name}"


@pytest.mark.parametrize("path", DOCS, ids=identify)
def test_every_link_to_a_file_leads_to_it(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text("utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name}: {target} leads nowhere"


@pytest.mark.parametrize("path", DOCS, ids=identify)
def test_every_make_target_is_one(path):
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = re.findall(r"\bmake ((?:[a-z-]+ ?)+)", "\n".join([*spans(path), *blocks(path)]))
    for target in " ".join(asked).split():
        assert target in known, f"{path.name}: make {target}"


def blocks(path: pathlib.Path) -> list[str]:
    """Commands in blocks of code: fenced, or indented by four spaces."""
    text = path.read_text("utf-8")
    fenced = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = "\n".join([*fenced, *re.findall(r"^    (.*)$", text, re.MULTILINE)]).splitlines()
    return [line.split("#")[0] for line in lines if line.startswith("make ")]


def test_the_tree_names_every_room():
    source = ast.parse((ROOT / "tests" / "test_imports.py").read_text())
    (rooms,) = [
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "ROOMS"
    ]
    named = spans(ROOT / "docs" / "architecture.md")
    for room in rooms:
        path = room.replace(".", "/")
        assert {f"{path}/", f"{path}.py"} & {*named}, f"docs/architecture.md: no room {path}"


def test_the_table_of_names_is_that_of_the_package():
    """`python -m tools.names docs/architecture.md` writes the table."""
    expected = {(kind, name) for kind, found in names.PUBLIC.items() for name in found}
    assert rows(ROOT / "docs" / "architecture.md") == expected


@pytest.mark.parametrize("kind, name", sorted(rows(ROOT / "docs" / "architecture.md")))
def test_every_name_in_the_table_resolves(kind, name):
    assert callable(config.resolve(name)), kind
