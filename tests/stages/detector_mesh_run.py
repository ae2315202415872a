"""Trains a detector on meshes of 8 forced host devices; prints losses and the parameters' changes as JSON.

Started by test_detector_mesh.py: the number of devices is fixed before jax starts.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import jax  # noqa: E402
import numpy as np  # noqa: E402
from small_detectors import TINY_RCNN  # noqa: E402
from tiny_batches import CONVOLUTIONS, Fixed  # noqa: E402

from intern_jax.core import mesh as mesh_lib  # noqa: E402
from intern_jax.core import tree  # noqa: E402
from intern_jax.stages.finetune import FineTune  # noqa: E402
from intern_jax.train import loop  # noqa: E402

MESHES = ((1, 1, 1), (8, 1, 1), (2, 2, 2))
ROWS, ROOM, SIDE, CLASSES = 16, 5, 64, 3
HEAD = TINY_RCNN | {"width": 32, "hidden": 32}
OPTIM = {"name": "sgd", "learning_rate": 0.1, "clip_norm": 1.0}


def scenes() -> dict:
    """Pictures of several sizes on one canvas, with none to four objects, some of them ignored, and padding."""
    rng = np.random.default_rng(0)
    extent = rng.integers(40, SIDE + 1, (ROWS, 2)).astype(np.int32)
    image = rng.integers(0, 256, (ROWS, SIDE, SIDE, 3)).astype(np.uint8)
    low = rng.uniform(0, 0.5, (ROWS, ROOM, 2))
    shares = np.concatenate([low, low + rng.uniform(0.2, 0.5, low.shape)], axis=-1)
    boxes = (shares * np.tile(extent[:, ::-1], 2)[:, None]).astype(np.float32)
    there = np.arange(ROOM) < rng.integers(0, ROOM, (ROWS, 1))
    ignored = there & (rng.random((ROWS, ROOM)) < 0.2)
    return {
        "image": image,
        "boxes": np.where(there[..., None], boxes, 0),
        "box_labels": np.where(there, rng.integers(0, CLASSES, there.shape), -1).astype(np.int32),
        "box_valid": there & ~ignored,
        "box_ignore": ignored,
        "extent": extent,
    }


def main() -> None:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    stage = FineTune(CONVOLUTIONS, "detection", CLASSES, "faster_rcnn", HEAD)
    batch, begun, seen = {"task": scenes()}, {}, {}
    for shape in MESHES:
        mesh = mesh_lib.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])
        trainer = loop.Trainer(stage, {"optim": OPTIM, "log_every": 1}, mesh)
        runs = [trainer.fit(Fixed(batch), steps=steps) for steps in (0, 3)]
        begun, ended = (
            {name: np.asarray(x, np.float64) for name, x in tree.names(run.state.params).items()}
            for run in runs
        )
        moved = {name: ended[name] - begun[name] for name in ended}
        seen["x".join(map(str, shape))] = {
            "loss": [row["loss"] for row in runs[1].history],
            "moved": {name: x.ravel()[:500].tolist() for name, x in moved.items()},
        }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
