"""A digest per array: 32 bits that any flipped bit changes, the same on every sharding.

Each 32-bit word is mixed with its position, and the results are added modulo 2**32. The sum does
not depend on the order of its terms, so each device adds its own part, whatever the layout. The
mixing is the finaliser of MurmurHash3 (Appleby, public domain), a bijection of the word at each
position. A single changed word therefore always changes the sum. Words that change places, or
several changes at once, are missed with probability 2**-32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core import tree as tree_lib

# [dtype as text, shape, digest in hexadecimal]: plain data for a JSON file.
Entry = list[Any]


def describe(tree: Any) -> dict[str, Entry]:
    """{name: [dtype, shape, digest]} of a tree of arrays, which it waits for.

    In a run of several processes all must call it, and all get the same answer.
    """
    flat = tree_lib.paths(tree)
    leaves = list(flat.values())
    # On one device, one small program per shape: a program for the whole tree takes seconds to compile. On several
    # devices, one program: many at once, each waiting for all devices, deadlock on CPU (jaxlib 0.10.2).
    several = any(isinstance(x, jax.Array) and len(x.sharding.device_set) > 1 for x in leaves)
    sums = jax.device_get(_digests(leaves) if several else [digest(leaf) for leaf in leaves])
    return {
        name: [str(leaf.dtype), list(leaf.shape), f"{int(value):08x}"]
        for (name, leaf), value in zip(flat.items(), sums, strict=True)
    }


def layout(tree: Any) -> dict[str, Entry]:
    """{name: [dtype, shape]} of a tree of (abstract) arrays."""
    return {
        name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in tree_lib.paths(tree).items()
    }


@jax.jit
def digest(x: jax.Array) -> jax.Array:
    """The digest of one array of any dtype and shape: uint32 scalar."""
    words = _words(x)
    return jnp.sum(_mix(words + _positions(words.shape) * np.uint32(0x9E3779B1)), dtype=jnp.uint32)


@jax.jit
def _digests(leaves: list[jax.Array]) -> list[jax.Array]:
    return [digest(leaf) for leaf in leaves]


def _words(x: jax.Array) -> jax.Array:
    """The bits of `x` as uint32. A 64-bit number gives two words, in a last dimension of size 2."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    size = x.dtype.itemsize
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _positions(shape: tuple[int, ...]) -> jax.Array:
    # One iota per dimension: a flat index would make every device all-gather the whole array.
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        index = index + along * np.uint32(stride % (1 << 32))
        stride *= shape[axis]
    return index


def _mix(h: jax.Array) -> jax.Array:
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
