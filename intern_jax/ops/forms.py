"""Helpers for operations with two forms of the same result: one for XLA:CPU, one for accelerators."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

FORMS = ("auto", "cpu", "native")


def by_platform(form: str, cpu: Callable, native: Callable, *args: Any) -> Any:
    """Call `cpu` or `native` on `args`, arrays or trees of them; the names force a form.

    "auto" decides when the program is lowered. One that a CPU machine compiles for a TPU holds the native form.
    """
    if form == "auto":
        return lax.platform_dependent(*args, cpu=cpu, default=native)
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; known: {', '.join(FORMS)}")
    return (cpu if form == "cpu" else native)(*args)


def pad_map(x: jax.Array, side: int, fill: float = 0.0) -> jax.Array:
    """Pad a map [B,H,W,C] with side // 2 pixels of `fill` on all sides."""
    pad = (side // 2,) * 2
    return jnp.pad(x, ((0, 0), pad, pad, (0, 0)), constant_values=fill)


def native_conv(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> jax.Array:
    """XLA's own convolution of a map [B,H,W,I] with [K,K,I/groups,C], padded K // 2 on all sides."""
    pad = (kernel.shape[0] // 2,) * 2
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=(pad, pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def windows(x: jax.Array, side: int, stride: int, fill: float = 0.0) -> Iterator[jax.Array]:
    """Yields, per position of a side x side window, its view of a map [B,H,W,C]: [B,out height,out width,C].

    The positions come row by row. The map is padded with side // 2 pixels of `fill` on all sides, and windows begin
    `stride` pixels apart.
    """
    height, width = (-(-size // stride) for size in x.shape[1:3])
    x = pad_map(x, side, fill)
    for i in range(side):
        for j in range(side):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            cols = slice(j, j + stride * (width - 1) + 1, stride)
            yield x[:, rows, cols]
