"""RoIAlign (Mask R-CNN, arXiv 1703.06870, section 3) on the maps of a pyramid, in two forms of the same result.

Each bin of a region is the mean of a few samples, each interpolated between its four pixels. A CPU gathers pixels of
some regions at a time, which one loop reads, weighs and adds. Its gradient adds windows of 2 x 2 pixels, for a few
regions at a time: all at once would hold hundreds of megabytes. Accelerators, where a scatter is slow or its sum not
reproducible, multiply by two matrices of interpolation weights per region instead.

The map is read and gradients are added in place, so that nothing of the size of the samples is kept between the passes.
Legend: B batch, H, W map size, C channels, R regions per picture, P bins per side, N samples per side, L levels.
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from intern_jax.ops.boxes import area
from intern_jax.ops.forms import by_platform

# Regions handled at once. On a CPU the windows of a scatter should stay in the cache; a matrix product wants more rows.
CHUNK = {"gather": 64, "scatter": 8, "native": 32}
# torchvision adds it to the level, so that a region of exactly the canonical side is not rounded down.
EPSILON = 1e-6


def roi_align(
    maps: Sequence[jax.Array],
    rois_BxRx4: jax.Array,
    valid_BxR: jax.Array | None = None,
    *,
    strides: Sequence[int],
    bins: int = 7,
    sampling_ratio: int = 2,
    aligned: bool = True,
    form: str = "auto",
) -> jax.Array:
    """Regions [B,R,P,P,C] of maps [B,H,W,C], one map per level of a pyramid or one in all; `bins` is P.

    Rois are (x1, y1, x2, y2) in pixels of the picture, `strides` the pixels of the picture per pixel of each map. Each
    region is read from the level that `pyramid_level` gives. A bin is the mean of `sampling_ratio` squared samples. A
    sample more than one pixel outside its map counts as 0. `aligned` takes pixel centres at .5, as Detectron2 does;
    without it they are whole numbers and a region is at least one pixel wide, as torchvision's detectors have it.

    Where `valid_BxR` is false or a coordinate is not finite the result is 0. Maps get gradients, rois none. `form`
    forces the form, "cpu" or "native". ValueError if the numbers of maps and strides differ, if the strides are not
    consecutive powers of 2, and for `bins` or `sampling_ratio` below 1.
    """
    strides = _checked(maps, strides, bins, sampling_ratio)
    rois = lax.stop_gradient(rois_BxRx4)
    rois = rois.astype(jnp.promote_types(rois.dtype, jnp.float32))
    usable = jnp.isfinite(rois).all(axis=-1)
    usable = usable if valid_BxR is None else usable & valid_BxR
    # The gradient adds at the places of all samples without a check: none may come from NaN.
    rois = jnp.where(usable[..., None], rois, 0)
    if rois.shape[1] == 0:
        batch, channels = maps[0].shape[0], maps[0].shape[-1]
        return jnp.zeros((batch, 0, bins, bins, channels), maps[0].dtype)
    plan = _Plan(
        sizes=tuple((x.shape[1], x.shape[2]) for x in maps),
        bins=bins,
        samples=sampling_ratio,
        form=form,
    )
    places = jax.vmap(partial(_places, plan=plan, strides=strides, aligned=aligned))(rois, usable)
    out = jax.vmap(partial(_align, plan))(places, *maps)
    # A product with the weight 0 would keep a NaN of the map, or of the gradient.
    return jnp.where(usable[:, :, None, None, None], out, 0)


def pyramid_level(
    rois: jax.Array,
    strides: Sequence[int],
    canonical_side: float = 224.0,
    canonical_stride: int = 16,
) -> jax.Array:
    """The place in `strides`, int32 [...], of the level that reads rois [...,4] (FPN, arXiv 1612.03144, eq. 1).

    A region of `canonical_side` pixels squared is read at `canonical_stride`, one of twice the side a level higher.
    """
    side = jnp.sqrt(area(rois))
    level = jnp.floor(math.log2(canonical_stride) + jnp.log2(side / canonical_side) + EPSILON)
    lowest, highest = math.log2(strides[0]), math.log2(strides[-1])
    return (jnp.clip(level, lowest, highest) - lowest).astype(jnp.int32)


def _checked(maps, strides, bins: int, sampling_ratio: int) -> tuple[int, ...]:
    strides = tuple(strides)
    if not maps or len(maps) != len(strides):
        raise ValueError(
            f"there are {len(maps)} maps and {len(strides)} strides; one each is needed"
        )
    powers = all(b == 2 * a for a, b in itertools.pairwise(strides))
    if strides[0] <= 0 or not powers or (len(strides) > 1 and strides[0] & (strides[0] - 1)):
        raise ValueError(f"strides are {strides}; they must be consecutive powers of 2")
    if bins < 1 or sampling_ratio < 1:
        raise ValueError(
            f"bins is {bins} and sampling_ratio {sampling_ratio}; both must be at least 1"
        )
    return strides


# --- where the samples lie ------------------------------------------------------------------------


class _Plan(NamedTuple):
    """What is fixed when the program is traced: (height, width) of each map, bins, samples per bin and side, form."""

    sizes: tuple[tuple[int, int], ...]
    bins: int
    samples: int
    form: str

    @property
    def tops(self) -> tuple[int, ...]:
        """The first row of each map in one map of all, and its height: each has a row to spare."""
        tops = [0]
        for height, _ in self.sizes:
            tops.append(tops[-1] + height + 1)
        return tuple(tops)

    @property
    def width(self) -> int:
        """The width of one map of all, with a column to spare."""
        return max(width for _, width in self.sizes) + 1


class _Axis(NamedTuple):
    """Samples along one axis, [R,N]: the pixel at or before each, its weight, and that of the pixel after it.

    Weights of a region that is not valid, and of samples outside the map, are 0. The last pixel of a map has one after
    it in the row or column to spare, whose weight is 0.
    """

    low: jax.Array
    first: jax.Array
    second: jax.Array


class _Places(NamedTuple):
    """The level [R] of each region, and its samples along y and x in that map."""

    level: jax.Array
    y: _Axis
    x: _Axis


def _places(rois_Rx4, valid_R, plan: _Plan, strides, aligned: bool) -> _Places:
    level = (
        pyramid_level(rois_Rx4, strides) if len(strides) > 1 else jnp.zeros_like(valid_R, jnp.int32)
    )
    sides = jnp.asarray(plan.sizes, rois_Rx4.dtype)[level]
    scaled = rois_Rx4 / jnp.asarray(strides, rois_Rx4.dtype)[level][:, None]

    def axis(start, end, side):
        if aligned:
            start, end = start - 0.5, end - 0.5
        length = end - start if aligned else jnp.maximum(end - start, 1)
        count = plan.bins * plan.samples
        steps = (jnp.arange(count, dtype=start.dtype) + 0.5) / count
        at = start[:, None] + steps[None, :] * length[:, None]
        inside = (at >= -1) & (at <= side[:, None]) & valid_R[:, None]
        at = jnp.clip(at, 0, side[:, None] - 1)
        low = jnp.floor(at)
        second = at - low
        return _Axis(
            low.astype(jnp.int32), jnp.where(inside, 1 - second, 0), jnp.where(inside, second, 0)
        )

    x1, y1, x2, y2 = (scaled[:, i] for i in range(4))
    return _Places(level, axis(y1, y2, sides[:, 0]), axis(x1, x2, sides[:, 1]))


# --- one picture ----------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _align(plan: _Plan, places: _Places, *maps: jax.Array) -> jax.Array:
    """Regions [R,P,P,C] of the maps [H,W,C] of one picture."""
    cpu, native = partial(_gathered, plan), partial(_multiplied, plan)
    return by_platform(plan.form, cpu, native, places, *maps)


def _forward(plan, places, *maps):
    return _align(plan, places, *maps), places


def _backward(plan, places, grad):
    cpu, native = partial(_gathered_vjp, plan), partial(_multiplied_vjp, plan)
    return None, *by_platform(plan.form, cpu, native, places, grad)


_align.defvjp(_forward, _backward)


def _gathered(plan: _Plan, places: _Places, *maps: jax.Array) -> jax.Array:
    wide = jnp.promote_types(maps[0].dtype, jnp.float32)
    stacked = jnp.concatenate(
        [jnp.pad(x, ((0, 1), (0, plan.width - x.shape[1]), (0, 0))) for x in maps]
    )

    def regions(part: _Places) -> jax.Array:
        top = jnp.asarray(plan.tops[:-1])[part.level][:, None]
        total = jnp.zeros((), wide)
        for y in range(plan.samples):
            for x in range(plan.samples):
                own = slice(y, None, plan.samples), slice(x, None, plan.samples)
                for row, row_weight in _ends(part.y, own[0]):
                    for col, col_weight in _ends(part.x, own[1]):
                        pixel = stacked[(top + row)[:, :, None], col[:, None, :]].astype(wide)
                        weight = row_weight[:, :, None] * col_weight[:, None, :]
                        total = total + pixel * weight[..., None].astype(wide)
        return (total / plan.samples**2).astype(maps[0].dtype)

    # A head flattens the regions. Without a loop over chunks XLA:CPU would gather in the flat shape, in which nothing
    # runs along the channels: that takes ten times as long.
    count = places.level.shape[0]
    out = lax.map(regions, _chunks(places, CHUNK["gather"]))
    return out.reshape(-1, *out.shape[2:])[:count]


def _ends(axis: _Axis, own: slice) -> list[tuple[jax.Array, jax.Array]]:
    """The two pixels beside one sample of each bin, and their weights, [R,P]."""
    low = axis.low[:, own]
    return [(low, axis.first[:, own]), (low + 1, axis.second[:, own])]


def _gathered_vjp(plan: _Plan, places: _Places, grad: jax.Array) -> tuple[jax.Array, ...]:
    wide, channels = jnp.promote_types(grad.dtype, jnp.float32), grad.shape[-1]
    dims = lax.ScatterDimensionNumbers((1, 2, 3), (), (0, 1))

    def add(total, part):
        (level, y, x), grad = part
        top = jnp.asarray(plan.tops[:-1])[level][:, None, None]
        corner = jnp.broadcast_arrays(top + y.low[:, :, None], x.low[:, None, :])
        rows, cols = (jnp.stack([axis.first, axis.second], axis=-1).astype(wide) for axis in (y, x))
        shares = jnp.repeat(jnp.repeat(grad.astype(wide), plan.samples, 1), plan.samples, 2)
        window = rows[:, :, None, :, None, None] * cols[:, None, :, None, :, None]
        window = shares[:, :, :, None, None, :] / plan.samples**2 * window
        total = lax.scatter_add(
            total,
            jnp.stack(corner, axis=-1).reshape(-1, 2),
            window.reshape(-1, 2, 2, channels),
            dims,
            mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
        )
        return total, None

    zero = jnp.zeros((plan.tops[-1], plan.width, channels), wide)
    total, _ = lax.scan(add, zero, _chunks((places, grad), CHUNK["scatter"]))
    tops = zip(plan.tops, plan.sizes, strict=False)
    return tuple(total[t : t + h, :w].astype(grad.dtype) for t, (h, w) in tops)


def _multiplied(plan: _Plan, places: _Places, *maps: jax.Array) -> jax.Array:
    def regions(part):
        levels = []
        for k, x in enumerate(maps):
            rows, cols = _matrices(plan, part, k, x.dtype)
            # The rows first: the map is then one matrix, which all regions of the chunk multiply.
            levels.append(_einsum("rqw,rpwc->rpqc", cols, _einsum("rph,hwc->rpwc", rows, x)))
        return sum(levels[1:], start=levels[0])

    count = places.level.shape[0]
    out = lax.map(regions, _chunks(places, CHUNK["native"]))
    return out.reshape(-1, *out.shape[2:])[:count]


def _multiplied_vjp(plan: _Plan, places: _Places, grad: jax.Array) -> tuple[jax.Array, ...]:
    wide = jnp.promote_types(grad.dtype, jnp.float32)

    def add(totals, part):
        part, grad = part
        new = []
        for k, total in enumerate(totals):
            rows, cols = _matrices(plan, part, k, grad.dtype)
            spread = _einsum("rqw,rpqc->rpwc", cols, grad)
            new.append(total + _einsum("rph,rpwc->hwc", rows, spread).astype(wide))
        return tuple(new), None

    zero = tuple(jnp.zeros((*size, grad.shape[-1]), wide) for size in plan.sizes)
    totals, _ = lax.scan(add, zero, _chunks((places, grad), CHUNK["native"]))
    return tuple(total.astype(grad.dtype) for total in totals)


def _einsum(subscripts: str, *operands: jax.Array) -> jax.Array:
    # The default of TPUs would round float32 to bfloat16.
    return jnp.einsum(subscripts, *operands, precision=lax.Precision.HIGHEST)


def _matrices(plan: _Plan, places: _Places, level: int, dtype) -> tuple[jax.Array, jax.Array]:
    """Interpolation weights [R,P,H] and [R,P,W] of one level; 0 for the regions of other levels."""
    here = places.level == level

    def matrix(axis: _Axis, side: int) -> jax.Array:
        away = jnp.arange(side).reshape(1, 1, side) - axis.low[:, :, None]
        weights = jnp.where(away == 0, axis.first[:, :, None], 0)
        weights = weights + jnp.where(away == 1, axis.second[:, :, None], 0)
        means = weights.reshape(-1, plan.bins, plan.samples, side).mean(axis=2)
        return jnp.where(here[:, None, None], means, 0).astype(dtype)

    height, width = plan.sizes[level]
    return matrix(places.y, height), matrix(places.x, width)


def _chunks(tree, size: int):
    """Arrays [R,...] as [chunks, size, ...], filled up with zeros.

    A chunk is never smaller: a product of other shapes may round in another way.
    """

    def chunks(x):
        more = -x.shape[0] % size
        return jnp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, size, *x.shape[1:])

    return jax.tree.map(chunks, tree)
