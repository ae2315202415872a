"""Trains the whole amateur and its local sub-stage on meshes of 8 forced host devices; prints the losses as JSON.

Started by test_pairs_mesh.py: the number of devices is fixed before jax starts.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import jax  # noqa: E402
import numpy as np  # noqa: E402
from tiny_batches import OPTIM, TEXT, VIT, Fixed, pairs  # noqa: E402

from intern_jax.core import mesh as mesh_lib  # noqa: E402
from intern_jax.losses import pairwise, words  # noqa: E402
from intern_jax.stages.amateur import Amateur  # noqa: E402
from intern_jax.stages.amateur_local import AmateurLocal  # noqa: E402
from intern_jax.train import loop  # noqa: E402

MESHES = ((1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2))
TOWERS = {
    "backbone": VIT | {"image_size": 32},
    "text": TEXT | {"lengths": (4, 6)},
    "embed_dim": 16,
    "simsiam_hidden": 32,
}
LOCAL = {"prototypes": 32, "hidden_width": 32, "bottleneck": 16, "cross": 0.5}


def stage(name: str, sharded: bool):
    bank = {"size": 64, "sharded": sharded}
    if name == "local":
        return AmateurLocal(**TOWERS, **LOCAL, bank=bank)
    return Amateur(**TOWERS, losses=name, bank=bank)


def short_texts(batch: dict) -> dict:
    """Texts that end at the sixth token."""
    for name, end, rest in (("tokens1", 63, 0), ("tokens2", 63, 0), ("targets1", -1, -1)):
        batch["pairs"][name][:, 5], batch["pairs"][name][:, 6:] = end, rest
    return batch


def main() -> None:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # Several chunks, the last one smaller.
    pairwise.CHUNK, words.CHUNK = 5 * 16, 2 * 5 * 64
    batch, seen = short_texts(pairs(rows=16)), {}
    for name, parts in (("declip", 1), ("sigmoid_declip", 1), ("local", 1), ("local", 2)):
        for shape in MESHES:
            for sharded in (False, True) if shape[1] > 1 else (False,):
                mesh = mesh_lib.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])
                settings = {"optim": OPTIM | {"name": "sgd"}, "log_every": 1, "accumulate": parts}
                trainer = loop.Trainer(stage(name, sharded), settings, mesh)
                done = trainer.fit(Fixed(batch), steps=3)
                bank = np.asarray(done.state.extra["bank"]["rows"], np.float64)
                rows = [row["loss"] for row in done.history]
                seen[f"{name}, {parts}, {shape}, {sharded}"] = [*rows, float(np.abs(bank).sum())]
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
