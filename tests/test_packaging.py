"""What the package says it needs is what it imports, and what it ships is what it reads."""

import ast
import pathlib
import re
import sys
import tomllib
import zipfile

import pytest
from hatchling.builders.wheel import WheelBuilder

import intern_jax

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Modules whose distribution has another name.
DISTRIBUTION = {
    "PIL": "pillow",
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "tensorflow_datasets": "tensorflow-datasets",
    "yaml": "PyYAML",
}
# Come with jax itself, whatever its version.
WITH_JAX = {"jaxlib", "ml_dtypes"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {plain(re.match(r"[\w.-]+", text)[0]) for text in requirements}


def third_party(folder: pathlib.Path) -> set[str]:
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - WITH_JAX - {"intern_jax", "tools", "tests"}


def test_every_import_is_a_stated_dependency():
    stated = names(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        stated |= names(extra)
    used = {plain(DISTRIBUTION.get(name, name)) for name in third_party(ROOT / "intern_jax")}
    assert used <= stated


def pins(file: str) -> dict[str, str]:
    """{distribution: version} of a file of constraints."""
    lines = (ROOT / "constraints" / file).read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    found = {plain(name): version for name, version in pairs}
    assert len(found) == len(pairs)
    return found


@pytest.mark.parametrize("file", ["py311.txt", "py312.txt"])
def test_constraints_pin_what_the_dev_install_asks_for(file):
    pinned = pins(file).keys()
    assert names(PROJECT["dependencies"]) <= pinned
    assert names(PROJECT["optional-dependencies"]["dev"]) <= pinned
    assert not pinned & {"torch", "tensorflow", "pybullet", "libtpu"}


def test_both_constraints_pin_the_same_packages_and_the_newer_one_a_newer_jax():
    old, new = pins("py311.txt"), pins("py312.txt")
    assert old.keys() == new.keys()
    assert numbers(new["jax"]) > numbers(old["jax"])
    assert new["jax"] == new["jaxlib"] and old["jax"] == old["jaxlib"]


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


@pytest.mark.parametrize("file", ["py311.txt", "py312.txt"])
def test_lower_bounds_allow_the_constraints(file):
    pinned = pins(file)
    for text in PROJECT["dependencies"]:
        name, bound = re.fullmatch(r"([\w.-]+)>=([\d.]+)", text).groups()
        assert numbers(pinned[plain(name)]) >= numbers(bound), text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    """Names of the files in a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    assert f"intern_jax-{intern_jax.__version__}-py3" in path
    return set(zipfile.ZipFile(path).namelist())


def test_the_wheel_ships_configs_and_data_and_no_tests(wheel):
    configs = {f"intern_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert "intern_jax/configs/quickstart.py" in configs <= wheel
    shipped = [
        path
        for folder in ("data/embedded", "weights/default")
        for path in (ROOT / "intern_jax" / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert {str(path.relative_to(ROOT)) for path in shipped} <= wheel
    assert not [name for name in wheel if name.startswith(("tests/", "tools/", "configs/"))]


def test_the_wheel_carries_the_licence(wheel):
    assert any(name.endswith("licenses/LICENSE") for name in wheel)
