"""Who may import whom, read from the source: the package's layers, and what stays optional."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "intern_jax"

# A room, and the other rooms that its files may import. `weights` opens pictures as data does.
MAY_IMPORT = {
    "core": set(),
    "ops": set(),
    "losses": {"core", "ops"},
    "metrics": {"ops"},
    "models": {"core", "ops"},
    "data": {"core"},
    "train": {"core"},
    "weights": {"core", "ops", "models", "data.image_ops", "data.sample"},
    "adapt": {"core", "ops", "losses", "metrics", "models", "data", "train", "weights"},
    "stages": {"core", "ops", "losses", "metrics", "models", "data", "train", "weights"},
    "benchmark": {
        *("core", "ops", "losses", "metrics", "models", "data", "train", "weights"),
        "adapt",
    },
    "report": {"core"},
    "pipeline": {
        *("core", "ops", "models", "data", "train", "weights", "adapt", "benchmark", "report"),
    },
    "topology": {"core", "data", "train", "pipeline"},
}
# Optional extras, and what opens a network or runs code from data: inside a function at most.
LAZY = {"tensorflow", "torch", "wandb", "libtpu", "tensorflow_cpu", "sklearn", "pybullet"}
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


def room_of(path: pathlib.Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def is_ours(name: str) -> bool:
    """Whether a dotted name is a module of the package, and not a function in one."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def allowed(name: str, room: str) -> bool:
    inner = name.removeprefix("intern_jax").lstrip(".")
    if inner in ("", "version") or inner.split(".")[0] == room:
        return True
    return any(inner == may or inner.startswith(f"{may}.") for may in MAY_IMPORT[room])


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_imports_follow_the_layers(path):
    room = room_of(path)
    if room is None:
        return
    assert room in MAY_IMPORT, f"{room}: a new room; say here whom it may import"
    for name, _ in imports(path):
        # `from intern_jax.data import image_ops` imports data/__init__.py and the module.
        packages = {n for n, _ in imports(path) if n.startswith(f"{name}.") and is_ours(n)}
        if name.split(".")[0] != "intern_jax" or not is_ours(name) or packages:
            continue
        assert allowed(name, room), f"{identify(path)}: {room} may not import {name}"


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_optional_packages_are_imported_in_functions_and_pickle_nowhere(path):
    for name, top in imports(path):
        package = name.split(".")[0]
        assert package not in NEVER, f"{identify(path)} imports {name}"
        assert not (top and package in LAZY), f"{identify(path)}: {name} at module level"


@pytest.mark.parametrize("path", sorted((PACKAGE / "data").rglob("*.py")), ids=identify)
def test_only_stream_of_data_imports_jax(path):
    names = {name.split(".")[0] for name, _ in imports(path)}
    assert path.name == "stream.py" or not names & {"jax", "flax", "optax"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "report").rglob("*.py")), ids=identify)
def test_the_report_reads_files_only(path):
    assert not {name.split(".")[0] for name, _ in imports(path)} & {"jax", "flax", "orbax"}


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
        "import sys, intern_jax.data.mixture, intern_jax.data.transforms, intern_jax.data.sources\n"
        "assert 'flax' not in sys.modules and 'optax' not in sys.modules\n"
        "jax = sys.modules.get('jax')\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
