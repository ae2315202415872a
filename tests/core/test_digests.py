"""Digests: the formula by hand, every bit counts, the layout does not."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import digests

ROOT = pathlib.Path(__file__).resolve().parents[2]
MASK = 0xFFFFFFFF


def by_hand(words):
    """The digest of 32-bit words, in Python's integers."""
    total = 0
    for position, word in enumerate(words):
        h = (word + position * 0x9E3779B1) & MASK
        h = ((h ^ h >> 16) * 0x85EBCA6B) & MASK
        h = ((h ^ h >> 13) * 0xC2B2AE35) & MASK
        total += h ^ h >> 16
    return total & MASK


@pytest.mark.parametrize(
    ("dtype", "bits"), [("float32", "uint32"), ("bfloat16", "uint16"), ("int8", "uint8")]
)
def test_formula(dtype, bits):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)) * 50).astype(dtype)
    words = np.asarray(x).view(bits).ravel().tolist()
    assert int(digests.digest(x)) == by_hand(words)


def test_every_dtype_of_a_state():
    tree = {
        "flag": jnp.array([True, False]),
        "scalar": jnp.int32(7),
        "key": jax.random.key(0),
        "empty": jnp.zeros((0, 3)),
        "none": None,
    }
    entries = digests.describe(tree)
    assert entries["flag"] == ["bool", [2], f"{by_hand([1, 0]):08x}"]
    assert entries["scalar"] == ["int32", [], f"{by_hand([7]):08x}"]
    assert entries["empty"][2] == "00000000" and list(entries) == ["empty", "flag", "key", "scalar"]
    assert entries["key"] != digests.describe({"key": jax.random.key(1)})["key"]


def test_each_flipped_bit_and_each_swap_changes_it():
    x = np.random.default_rng(1).normal(size=64).astype(np.float32)
    before = int(digests.digest(x))
    seen = {before}
    for bit in range(0, 64 * 32, 7):
        flipped = x.copy()
        flipped.view(np.uint32)[bit // 32] ^= np.uint32(1 << bit % 32)
        seen.add(int(digests.digest(flipped)))
    assert len(seen) == 1 + len(range(0, 64 * 32, 7))
    swapped = x.copy()
    swapped[[3, 40]] = swapped[[40, 3]]
    assert int(digests.digest(swapped)) != before
    assert int(digests.digest(-np.zeros(2, np.float32))) != int(
        digests.digest(np.zeros(2, np.float32))
    )


SHARDED = """
import json, sys
sys.path.insert(0, sys.argv[1])
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from intern_jax.core import digests
x = np.random.default_rng(0).normal(size=(16, 8, 3)).astype(np.float32)
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
specs = (P(), P("a"), P("a", "b"), P(None, ("a", "b")), P("b", "a"))
print(json.dumps([int(digests.digest(jax.device_put(x, NamedSharding(mesh, s)))) for s in specs]))
"""


def test_the_same_on_every_sharding():
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", SHARDED, str(ROOT)]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    x = np.random.default_rng(0).normal(size=(16, 8, 3)).astype(np.float32)
    assert set(json.loads(out)) == {by_hand(x.view(np.uint32).ravel().tolist())}
