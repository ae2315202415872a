"""Pictures that fill a part of their canvas: what lies outside is 0 for every convolution, as at a canvas's edge.

A picture's maps then do not depend on the canvas that holds it. Legend: B batch, H, W size of a map.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.models.layers.basic import BatchNorm, Conv, DepthwiseConv

# These read a position's neighbours.
_WIDE = (Conv, DepthwiseConv)
# After these a map may be other than 0 outside the picture; pooling, which is no module, may read it.
_SHIFTING = (*_WIDE, BatchNorm, nn.GroupNorm)


@contextlib.contextmanager
def only_inside(extent_Bx2: jax.Array | None, size: Sequence[int]) -> Iterator[None]:
    """Inside `with`, modules make maps that are 0 outside pictures of `extent` (height, width) on canvases of `size`.

    A position of a map counts to the picture if its first pixel does. None: the pictures fill their canvases. It is
    exact for networks of convolutions with running statistics or group normalisation, whose mean is taken inside. Other
    means over a whole map (squeeze-and-excitation), attention and batch statistics still see the outside.
    """
    if extent_Bx2 is None:
        yield
        return

    def mask(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name != "__call__" or not isinstance(context.module, _SHIFTING):
            return call(*args, **kwargs)
        if isinstance(context.module, _WIDE):
            # After pooling at a picture's edge, its neighbours outside are not 0.
            args = (cut(args[0], extent_Bx2, size), *args[1:])
        if isinstance(context.module, nn.GroupNorm) and args[0].ndim == 4:
            inside = _inside(args[0], extent_Bx2, size)
            kwargs = {**kwargs, "mask": jnp.broadcast_to(inside, args[0].shape)}
        return cut(call(*args, **kwargs), extent_Bx2, size)

    with nn.intercept_methods(mask):
        yield


def cut(x_BxHxWxC: jax.Array, extent_Bx2: jax.Array | None, size: Sequence[int]) -> jax.Array:
    """A map with 0 outside the pictures; without an extent, the map."""
    if extent_Bx2 is None or x_BxHxWxC.ndim != 4:
        return x_BxHxWxC
    inside = _inside(x_BxHxWxC, extent_Bx2, size)
    return jnp.where(inside, x_BxHxWxC, jnp.zeros((), x_BxHxWxC.dtype))


def inside(
    x_BxHxWxC: jax.Array, extent_Bx2: jax.Array | None, size: Sequence[int]
) -> jax.Array | None:
    """Which positions of a map are on the pictures, bool [B,H,W]; None if the pictures fill their canvases."""
    return None if extent_Bx2 is None else _inside(x_BxHxWxC, extent_Bx2, size)[..., 0]


def _inside(x_BxHxWxC: jax.Array, extent_Bx2: jax.Array, size: Sequence[int]) -> jax.Array:
    """Which positions of a map are on the pictures: bool [B,H,W,1]."""
    rows, columns = (
        jnp.arange(count)[None] * _stride(whole, count) < extent_Bx2[:, axis, None]
        for axis, (count, whole) in enumerate(zip(x_BxHxWxC.shape[1:3], size, strict=True))
    )
    return rows[:, :, None, None] & columns[:, None, :, None]


def beyond_edges(x_BxHxWxC: jax.Array, extent_Bx2: jax.Array, size: Sequence[int]) -> jax.Array:
    """A map whose positions outside the pictures repeat the last ones inside, as reads beyond a canvas's edge do."""
    for axis in (0, 1):
        count = x_BxHxWxC.shape[1 + axis]
        stride = _stride(size[axis], count)
        last = jnp.clip(-(-extent_Bx2[:, axis] // stride) - 1, 0, count - 1)
        place = jnp.minimum(jnp.arange(count)[None], last[:, None])
        x_BxHxWxC = jax.vmap(lambda x, i, axis=axis: jnp.take(x, i, axis=axis))(x_BxHxWxC, place)
    return x_BxHxWxC


def of_rows(rows: Mapping[str, Any] | None) -> jax.Array | None:
    """The extent [B,2] that rows of a batch have, if they have one."""
    return None if rows is None else rows.get("extent")


def _stride(whole: int, count: int) -> int:
    """Pixels per position of `count` positions along `whole` pixels; the last one may be cut."""
    near = 2 ** round(math.log2(whole / count))
    return near if -(-whole // near) == count else whole // count
