"""Trains ten heads of 2 to 115,000 classes on meshes of 8 forced host devices; prints what was seen as JSON.

Started by test_many_heads.py: the number of devices is fixed before jax starts.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import jax  # noqa: E402
import numpy as np  # noqa: E402
from tiny_batches import CONVOLUTIONS, Fixed  # noqa: E402

from intern_jax.core import mesh as mesh_lib  # noqa: E402
from intern_jax.core import tree  # noqa: E402
from intern_jax.stages.expert import Expert  # noqa: E402
from intern_jax.train import loop  # noqa: E402

MESHES = ((1, 1, 1), (8, 1, 1), (2, 2, 2), (1, 1, 8))
CLASSES = (2, 3, 5, 8, 17, 100, 1000, 1023, 11_221, 115_000)
ROWS = 80
LARGEST = "set_9"
OPTIM = {"name": "sgd", "learning_rate": 0.1, "clip_norm": 1.0}


def batch() -> dict:
    """Pictures of ten sources in no order, one of which has a single row."""
    rng = np.random.default_rng(0)
    source = rng.permutation(np.arange(ROWS) % len(CLASSES)).astype(np.int32)
    source[np.flatnonzero(source == 3)[1:]] = 4
    label = (rng.random(ROWS) * np.array(CLASSES)[source]).astype(np.int32)
    image = rng.integers(0, 256, (ROWS, 32, 32, 3)).astype(np.uint8)
    return {"cls": {"image": image, "label": label, "source": source}}


def most_rows(source: np.ndarray):
    """The largest number of rows of each source in a part, as the mixture states it."""

    def of(parts: int) -> list[int]:
        counts = [np.bincount(part, minlength=len(CLASSES)) for part in np.split(source, parts)]
        return np.max(counts, axis=0).tolist()

    return of


def main() -> None:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    rows = batch()
    sets = {"cls": [(f"set_{i}", k) for i, k in enumerate(CLASSES)]}
    most = {"cls": most_rows(rows["cls"]["source"])}
    seen = {}
    for known, shape in [*((True, shape) for shape in MESHES), (False, (1, 1, 1))]:
        mesh = mesh_lib.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])
        stage = Expert(CONVOLUTIONS, sets, most_rows=most if known else None)
        trainer = loop.Trainer(stage, {"optim": OPTIM, "log_every": 1}, mesh)
        result = trainer.fit(Fixed(rows), steps=3)
        classifier = tree.names(result.state.params)[f"heads_{LARGEST}/classifier/kernel"]
        seen["x".join(map(str, shape)) + ("" if known else " all rows")] = {
            "history": [
                {n: v for n, v in row.items() if n.startswith(("set_", "loss"))}
                for row in result.history
            ],
            "share": max(s.data.nbytes for s in classifier.addressable_shards) / classifier.nbytes,
            "classes": classifier.shape[1],
            "compilations": [p.step._cache_size() for p in trainer._programs.values()],
        }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
