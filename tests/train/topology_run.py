"""Saves on one mesh of 8 forced host devices and goes on on others; prints what it saw as JSON.

Started by test_topology.py: the number of devices is fixed before jax starts.
"""

import json
import pathlib
import shutil
import sys

sys.path[:0] = [
    str(pathlib.Path(__file__).parent),
    str(pathlib.Path(__file__).resolve().parents[2]),
]

import jax  # noqa: E402
import numpy as np  # noqa: E402
from mesh_run import Classify, Stream, bytes_on_a_device, held, total_bytes  # noqa: E402

from intern_jax.core import mesh as mesh_lib  # noqa: E402
from intern_jax.core import tree  # noqa: E402
from intern_jax.train.checkpoint import Checkpoints  # noqa: E402
from intern_jax.train.loop import Trainer  # noqa: E402

SAVED = (1, 8, 1)
OTHERS = ((1, 8, 1), (8, 1, 1), (1, 1, 8), (2, 2, 2), (1, 4, 1), (1, 2, 1), (1, 1, 1))


def trainer(shape):
    optim = {"learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0}
    cfg = {"steps": 4, "log_every": 1, "ema_decay": 0.9, "optim": optim, "checkpoint_every": 2}
    mesh = mesh_lib.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])
    return Trainer(Classify(), cfg, mesh)


def main(folder: pathlib.Path) -> None:
    begun = trainer(SAVED).fit(Stream(), workdir=folder / "saved", steps=2)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(begun.state)]
    names = list(tree.paths(begun.state))
    seen = {}
    for shape in OTHERS:
        name = "x".join(map(str, shape))
        shutil.copytree(folder / "saved", folder / name)
        other = trainer(shape)
        abstract = other.abstract(Stream())
        checkpoints = Checkpoints(folder / name / "checkpoints", 2)
        state, _ = checkpoints.restore(abstract)
        checkpoints.close()
        leaves = jax.tree.leaves(state)
        differing = [
            n
            for n, a, b in zip(names, arrays, leaves, strict=True)
            if a.tobytes() != np.asarray(b).tobytes()
        ]
        placed = all(
            leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)
            for leaf, want in zip(leaves, jax.tree.leaves(abstract), strict=True)
        )
        sizes = (total_bytes(held(state)), bytes_on_a_device(held(state)))
        done = other.fit(Stream(), workdir=folder / name)
        losses = [row["loss"] for row in done.history]
        seen[name] = {"differing": differing, "placed": placed, "losses": losses, "sizes": sizes}
    print(json.dumps(seen))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
