"""Settings of every test: CPU only, compiled programs kept between runs, no silent broadcasting over ranks."""

import gc
import os
import pathlib
import sys

# Before jax is imported, and in the environment: the processes that tests start find the programs too.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    pathlib.Path(__file__).parents[1] / ".cache" / "compiled"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"

import jax
import pytest
from absl import flags

KEPT = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
MOST_BYTES = 2**30  # of the programs kept

# What tests of several folders share (compiling.py): pytest's importlib mode adds no folder.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()


# With several workers the longest files go first, so that at the end no core waits for another.
LONGEST = (
    "pipeline/test_pipeline.py",
    "stages/test_stages.py",
    "train/test_accumulation.py",
    "models/test_transfer.py",
    "examples/test_examples.py",
    "train/test_two_processes.py",
    "tools/test_chaos.py",
    "models/test_metanet_fixtures.py",
    "weights/test_default.py",
    "models/test_scanning.py",
    "models/test_held_still.py",
    "adapt/test_fit_and_folder.py",
    "train/test_topology.py",
    "train/test_mesh_equality.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Workers take files in the order of collection, and not those of most tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; all else keeps its order."""
    folder = pathlib.Path(__file__).parent
    gone = [name for name in LONGEST if not (folder / name).is_file()]
    if gone:
        raise pytest.UsageError(f"tests/conftest.py: LONGEST names {gone[0]}, which is gone")
    place = {folder / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish(session: pytest.Session) -> None:  # noqa: ARG001
    """Let the garbage collector look seldom, and never at what all tests share: traces make millions of objects."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Forget the programs that no run has read for longest, where there are too many."""
    if hasattr(session.config, "workerinput") or not KEPT.is_dir():
        return
    files = [(path, path.stat()) for path in KEPT.iterdir()]
    total = sum(stat.st_size for _, stat in files)
    for path, stat in sorted(files, key=lambda file: max(file[1].st_atime, file[1].st_mtime)):
        if total <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= stat.st_size


@pytest.fixture
def in_float64():
    """float64 arrays stay float64 in jax."""
    with jax.enable_x64(True):
        yield
