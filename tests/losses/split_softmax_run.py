"""Cross-entropy of classes split over 8 forced devices, and of whole ones; prints differences and collectives as JSON.

Started by test_split_softmax.py: the number of devices is fixed before jax starts.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from intern_jax.core import averages
from intern_jax.core import mesh as mesh_lib
from intern_jax.losses.classification import cross_entropy, sigmoid_of_ancestors

ROWS, WIDTH, CLASSES = 64, 32, 115_000
STORED = 115_072
LINKS = np.stack([np.arange(1, 5000), np.arange(1, 5000) // 3], axis=1)


def losses() -> dict:
    real = jnp.arange(STORED) < CLASSES
    return {
        "softmax": lambda z, y, v: cross_entropy(z, y, v, classes=real),
        "smoothed": lambda z, y, v: cross_entropy(z, y, v, 0.1, classes=real),
        "sigmoid": lambda z, y, v: sigmoid_of_ancestors(z, y, v, LINKS, classes=real),
    }


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    kernel = (0.3 * rng.normal(size=(WIDTH, STORED))).astype(np.float32)
    label = rng.integers(0, 6000, ROWS).astype(np.int32)
    valid = rng.random(ROWS) < 0.8
    mesh = mesh_lib.make_mesh(2, 1, 4)
    rows, classes = (NamedSharding(mesh, spec) for spec in (P(("data",)), P(None, "tensor")))
    seen = {}
    for name, loss in losses().items():

        def value(x, kernel, label, valid, loss=loss):
            logits = jnp.matmul(x, kernel, precision="highest")
            return averages.value(loss(logits, label, valid))

        both = jax.value_and_grad(value, argnums=(0, 1))
        whole = jax.jit(both)(x, kernel, label, valid)
        given = [
            jax.device_put(a, s)
            for a, s in zip((x, kernel, label, valid), (rows, classes, rows, rows), strict=True)
        ]
        split = jax.jit(both, out_shardings=(None, (rows, classes)))
        text = split.lower(*given).compile().as_text()
        found = jax.device_get(split(*given))
        whole = jax.device_get(whole)
        seen[name] = {
            "value": [float(whole[0]), float(found[0])],
            "gradients": [
                float(np.abs(a - b).max() / np.abs(a).max())
                for a, b in zip(whole[1], found[1], strict=True)
            ],
            # The largest array that devices send each other.
            "sent": max(_sizes(text), default=0),
        }
    print(json.dumps(seen))


def _sizes(text: str) -> list[int]:
    """The numbers of elements of all collectives' results in a compiled program."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = []
    for result in re.findall(rf"= (.*?) (?:{kinds})\S*\(", text):
        shapes = re.findall(r"\w+\[([\d,]*)\]", result)
        found += [int(np.prod([int(d) for d in s.split(",") if d])) for s in shapes]
    return found


if __name__ == "__main__":
    main()
