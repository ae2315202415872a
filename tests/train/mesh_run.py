"""Trains a small network on several meshes of 8 forced host devices; prints what it saw as JSON.

Started by test_mesh_equality.py: the number of devices is fixed before jax starts.
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from intern_jax.core import mesh as mesh_lib  # noqa: E402
from intern_jax.core.averages import mean  # noqa: E402
from intern_jax.models import zoo  # noqa: E402
from intern_jax.models.layers.basic import BatchNorm, Conv, Dense  # noqa: E402
from intern_jax.train.loop import fit  # noqa: E402
from intern_jax.train.stage import Stage  # noqa: E402

MESHES = ((1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2))


class Network(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        x = Conv(64, 3, 2, use_bias=True)(images)
        x = nn.relu(BatchNorm()(x, train))
        x = Conv(128, 3, 2)(x)
        x = nn.relu(BatchNorm()(x, train)).mean((1, 2))
        x = nn.relu(Dense(256)(x))
        return Dense(8, axes=("embed", None))(x)


class Classify(Stage):
    name = "classify"

    def init(self, key, batch):
        return Network().init(key, batch["task"]["image"], train=True)

    def loss(self, context):
        rows = context.batch["task"]
        logits, extra = self.logits(context.variables, rows["image"], context.key)
        chosen = jax.nn.log_softmax(logits)[jnp.arange(len(rows["label"])), rows["label"]]
        return {"cross_entropy": mean(-chosen)}, (extra, {})

    def logits(self, variables, image, _key):
        return Network().apply(variables, image, train=True, mutable=["batch_stats"])


class Zoo(Classify):
    """The same losses on a shipped backbone."""

    name = "zoo"
    model = zoo.build({"name": "embedded_tiny"})

    def init(self, key, batch):
        rngs = {"params": key, "dropout": key}
        return self.model.init(rngs, batch["task"]["image"][..., :3], train=True)

    def logits(self, variables, image, key):
        out, extra = self.model.apply(
            variables,
            image[..., :3],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return out["pooled"], extra


STAGES = {"small": Classify, "zoo": Zoo}


class Stream:
    segments = ()

    def faults(self):
        return {}

    def batch_at(self, step):
        rng = np.random.default_rng(step)
        label = rng.integers(0, 8, 16)
        image = rng.normal(size=(16, 8, 8, 8)) + label[:, None, None, None] / 4
        return {"task": {"image": image.astype(np.float32), "label": label.astype(np.int32)}}

    def iterate(self, start):
        while True:
            yield self.batch_at(start)
            start += 1


def total_bytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def bytes_on_a_device(tree):
    """The most bytes of `tree` that one device holds."""
    held = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device.id] = held.get(shard.device.id, 0) + shard.data.nbytes
    return max(held.values())


def main() -> None:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    seen = {}
    for shape in MESHES:
        optim = {"learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0}
        cfg = {"steps": 5, "log_every": 1, "ema_decay": 0.9, "optim": optim}
        cfg["accumulate"] = int(sys.argv[2])
        mesh = mesh_lib.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])
        done = fit(STAGES[sys.argv[1]](), Stream(), cfg, mesh)
        state = done.state
        sizes = {
            name: (total_bytes(tree), bytes_on_a_device(tree))
            for name, tree in (("matrices", matrices(state)), ("all", held(state)))
        }
        moments = [m.sharding for m in jax.tree.leaves(optax.tree.get(state.opt_state, "mu"))]
        params = [p.sharding for p in jax.tree.leaves(state.params)]
        seen["x".join(map(str, shape))] = {
            "loss": [row["loss"] for row in done.history],
            "sizes": sizes,
            "moments_beside": all(
                m.is_equivalent_to(s, p.ndim)
                for m, s, p in zip(moments, params, jax.tree.leaves(state.params), strict=True)
            ),
        }
    print(json.dumps(seen))


def held(state):
    return state.params, state.opt_state


def matrices(state):
    return [leaf for leaf in jax.tree.leaves(held(state)) if leaf.ndim > 1]


if __name__ == "__main__":
    main()
