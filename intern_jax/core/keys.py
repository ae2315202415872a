"""Random keys by name: adding a key never changes another."""

import zlib

import jax


def key_for(seed: int, *names: str | int) -> jax.Array:
    """The key of a seed and a path of names: fold_in of each name's CRC-32."""
    key = jax.random.key(seed)
    for name in names:
        key = jax.random.fold_in(key, zlib.crc32(str(name).encode()))
    return key
