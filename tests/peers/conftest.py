"""How a test asks a peer: a script runs in the Python of `make peers` and leaves its answer in files."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools import peers as environment  # noqa: E402

Answer = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def ask(tmp_path_factory) -> Callable[..., Answer]:
    """ask(NAME, *arguments, **arrays): what scripts/NAME.py makes of the arrays.

    It is called with the npz file that it writes, the npz file of the arrays, and the arguments.
    """
    python = environment.python()
    if python is None:
        pytest.skip("no .venv-peers: build it by `make peers`")

    def run(name: str, *arguments: str | os.PathLike[str], **arrays: np.ndarray) -> Answer:
        folder = tmp_path_factory.mktemp(name)
        np.savez(folder / "asked.npz", **arrays)
        script = pathlib.Path(__file__).parent / "scripts" / f"{name}.py"
        # -I: their packages alone, nothing of this environment. One thread: beside others, two wait for one another.
        command = [python, "-I", script, folder / "answer.npz", folder / "asked.npz", *arguments]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with np.load(folder / "answer.npz", allow_pickle=False) as answer:
            return dict(answer)

    return run
