"""Who may import whom, read from the source: the package's rooms, and what stays optional.

A room is a leaf folder, the files of a folder that has others in it, or a root file. Imports run down the list.
"""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "intern_jax"
ROOM_LINES = 2500

# Top to ground: a room imports those below it. docs/architecture.md says what each is for.
ROOMS = (
    "__main__",
    "verbs",
    "topology",
    "pipeline",
    "benchmark",
    "benchmark.scores",
    "benchmark.rows",
    "adapt",
    "stages",
    "curation.sets",
    "curation",
    "curation.running",
    "curation.pictures",
    "weights.published",
    "weights",
    "tasks.teaching",
    "tasks",
    "models.heads",
    "models.detection",
    "models",
    "models.layers",
    "models.variants",
    "data.gvb",
    "data.gvb.classification",
    "data.gvb.scenes",
    "data.embedded",
    "data.batches",
    "data.make",
    "data.open",
    "data.detection",
    "data.sources",
    "data.read",
    "data.schema",
    "train",
    "train.progress",
    "report",
    "losses",
    "metrics",
    "families",
    "ops",
    "processes",
    "core",
    "version",
)
# Python's own: `intern_jax.load` opens a model inside a function; data/__init__.py holds words alone.
PACKAGE_FILE = "__init__"
# Optional extras, and what opens a network or runs code from data: inside a function at most.
LAZY = {
    "apache_beam",
    "resvg_py",
    "tensorflow",
    "torch",
    "wandb",
    "libtpu",
    "tensorflow_cpu",
    "sklearn",
    "pybullet",
}
NEVER = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: pathlib.Path) -> list[tuple[str, bool]]:
    """(dotted name, whether at module level) of everything that a file imports."""
    found = []

    def walk(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                found.append((child.module, top))
                found.extend((f"{child.module}.{alias.name}", top) for alias in child.names)
            inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            walk(child, top and not inner)

    walk(ast.parse(path.read_text()), True)
    return found


def identify(path: pathlib.Path) -> str:
    return str(path.relative_to(PACKAGE))


def room_of(path: pathlib.Path) -> str:
    """The folder of a file, dotted; of a root file its name."""
    parts = path.relative_to(PACKAGE).parts
    return ".".join(parts[:-1]) if len(parts) > 1 else path.stem


def file_of(name: str) -> pathlib.Path | None:
    """The file of a module of the package; None for a function in one, and for other packages."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    if name.split(".")[0] != "intern_jax":
        return None
    if path.with_suffix(".py").exists():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").exists() else None


def imported_rooms(path: pathlib.Path) -> set[str]:
    """Rooms that a file imports. A package's own file counts where something in it is asked for."""
    names = {name for name, _ in imports(path)}
    found = set()
    for name in names:
        file = file_of(name)
        # `from intern_jax.data.read import decoding` asks for the module, not for read/__init__.py.
        inner = any(other.startswith(f"{name}.") and file_of(other) for other in names)
        if file is not None and not (file.name == "__init__.py" and inner):
            found.add(room_of(file))
    return found


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_imports_run_down_the_rooms(path):
    room = room_of(path)
    if room == PACKAGE_FILE:
        return
    if path.name == "__init__.py" and not imported_rooms(path):
        return
    assert room in ROOMS, f"{identify(path)}: a new room; give it a place in ROOMS"
    below = ROOMS[ROOMS.index(room) :]
    for other in sorted(imported_rooms(path)):
        assert other in below, f"{identify(path)}: {room} may not import {other}"


def test_every_room_is_there():
    there = {room_of(path) for path in FILES if path.name != "__init__.py" or imported_rooms(path)}
    assert there - {PACKAGE_FILE} == set(ROOMS)


def test_no_room_is_too_large():
    lines: dict[str, int] = {}
    for path in FILES:
        room = room_of(path)
        lines[room] = lines.get(room, 0) + len(path.read_text("utf-8").splitlines())
    too_large = {room: count for room, count in lines.items() if count > ROOM_LINES}
    assert not too_large, f"rooms above {ROOM_LINES} lines: split them by meaning: {too_large}"


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_optional_packages_are_imported_in_functions_and_pickle_nowhere(path):
    for name, top in imports(path):
        package = name.split(".")[0]
        assert package not in NEVER, f"{identify(path)} imports {name}"
        assert not (top and package in LAZY), f"{identify(path)}: {name} at module level"


JAX_FREE = ("data", "families", "report", "verbs", "benchmark/rows")


@pytest.mark.parametrize(
    "path",
    [path for room in JAX_FREE for path in sorted((PACKAGE / room).rglob("*.py"))],
    ids=identify,
)
def test_rooms_without_jax(path):
    if path == PACKAGE / "data" / "batches" / "stream.py":
        return  # places batches on devices
    assert not {name.split(".")[0] for name, _ in imports(path)} & {"jax", "flax", "optax", "orbax"}


def test_importing_the_package_and_asking_for_help_load_nothing_heavy():
    code = (
        "import sys, intern_jax, intern_jax.__main__ as m\n"
        "try: m.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'numpy', 'flax', 'grain', 'matplotlib', 'tensorflow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_data_workers_load_no_jax():
    code = (
        "import sys, intern_jax.data.batches.mixture, intern_jax.data.make.views\n"
        "import intern_jax.data.sources.folder\n"
        "assert 'flax' not in sys.modules and 'optax' not in sys.modules\n"
        "jax = sys.modules.get('jax')\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
