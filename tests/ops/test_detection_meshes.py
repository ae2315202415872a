"""Operators of detectors on a batch that is sharded over 8 forced devices, against one device."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forced_devices import answer_of

from intern_jax.core.mesh import make_mesh
from intern_jax.ops.matching import match, sample
from intern_jax.ops.nms import nms
from intern_jax.ops.roi_align import roi_align

BATCH = 16


@pytest.mark.medium
def test_eight_devices_give_the_numbers_of_one():
    found = answer_of(pathlib.Path(__file__).resolve())
    assert found.keys() == {"nms", "sample", "roi_align"}
    for name, (equal, devices, gathered) in found.items():
        assert equal and devices == 8, name
        assert not gathered, f"{name}: rows leave their device"


def suppressed(boxes, scores, _maps, _keys):
    return jax.vmap(lambda b, s: nms(b, s, 0.5, 30, tile=16))(boxes, scores)


def sampled(boxes, _scores, _maps, keys):
    def one(boxes, key):
        found = match(boxes, boxes[:5] + 3, high=0.5, low=0.5)
        return found, sample(key, found.label, 12, 0.25)

    return jax.vmap(one)(boxes, keys)


def pooled(boxes, _scores, maps, _keys):
    out, pull = jax.vjp(lambda *maps: roi_align(maps, boxes, strides=[4, 8], bins=3), *maps)
    return out, pull(out)


def main() -> dict[str, tuple[bool, int, bool]]:
    """By operator: whether all is equal, over how many devices it lies, whether rows were gathered."""
    rng = np.random.default_rng(0)
    low = rng.uniform(-5, 60, (BATCH, 50, 2))
    boxes = np.concatenate([low, low + rng.uniform(2, 40, (BATCH, 50, 2))], axis=-1)
    maps = [rng.normal(size=(BATCH, 64 // s, 64 // s, 4)).astype(np.float32) for s in (4, 8)]
    scores = rng.integers(0, 9, (BATCH, 50)).astype(np.float32)
    given = boxes.astype(np.float32), scores, maps
    keys = jax.random.split(jax.random.key(0), BATCH)
    rows = jax.NamedSharding(make_mesh(data=8), jax.P("data"))
    answer = {}
    for name, run in (("nms", suppressed), ("sample", sampled), ("roi_align", pooled)):
        one = jax.jit(run)(*jax.tree.map(jnp.asarray, given), keys)
        shared = jax.device_put((*given, keys), rows)
        program = jax.jit(run, out_shardings=rows).lower(*shared).compile()
        many = program(*shared)
        equal = jax.tree.map(np.array_equal, one, many)
        devices = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(many)}
        answer[name] = (
            all(jax.tree.leaves(equal)),
            min(devices),
            "all-gather" in program.as_text(),
        )
    return answer


if __name__ == "__main__":
    print(json.dumps(main()))
