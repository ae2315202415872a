"""RoIAlign in both forms against a loop over samples, as the paper says it; gradients, padding, hostile regions."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.ops.roi_align import pyramid_level, roi_align

FORMS = ("cpu", "native")


def pixel(x, y, at):
    """Bilinear value [C] of a map [H,W,C] at (y, x), 0 more than one pixel outside."""
    height, width, _ = x.shape
    if not (-1 <= y <= height and -1 <= at <= width):
        return np.zeros(x.shape[-1])
    y, at = min(max(y, 0), height - 1), min(max(at, 0), width - 1)
    top, left = int(y), int(at)
    low, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, at - left
    above = (1 - dx) * x[top, left] + dx * x[top, right]
    below = (1 - dx) * x[low, left] + dx * x[low, right]
    return (1 - dy) * above + dy * below


def by_hand(x, roi, stride, bins, samples, aligned):
    """One region [P,P,C] of a map [H,W,C]."""
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = roi / stride - shift
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    out = np.zeros((bins, bins, x.shape[-1]))
    for p, q in np.ndindex(bins, bins):
        for i, j in np.ndindex(samples, samples):
            y = y1 + (p + (i + 0.5) / samples) * height / bins
            at = x1 + (q + (j + 0.5) / samples) * width / bins
            out[p, q] += pixel(x, y, at) / samples**2
    return out


def level_by_hand(roi, strides):
    """Equation 1 of FPN with k0 = 4 at stride 16."""
    side = np.sqrt(max(roi[2] - roi[0], 0) * max(roi[3] - roi[1], 0))
    k = -np.inf if side == 0 else np.floor(4 + np.log2(side / 224) + 1e-6)
    ks = [int(np.log2(stride)) for stride in strides]
    return int(np.clip(k, ks[0], ks[-1])) - ks[0]


STRIDES = (4, 8, 16)
ROIS = np.array(
    [
        [
            [3.0, 5.0, 40.0, 37.5],
            [0.0, 0.0, 64.0, 48.0],
            [-30.0, -9.0, 500.0, 300.0],  # beyond all sides, on the last level
            [10.2, 20.1, 150.0, 130.0],
            [60.0, 40.0, 64.0, 48.0],
        ],
        [
            [7.0, 7.0, 7.0, 7.0],  # no area
            [30.0, 30.0, 10.0, 10.0],  # swapped corners
            [1000.0, 1000.0, 1100.0, 1100.0],  # outside
            [5.0, 1.0, 6.0, 47.0],
            [62.0, 46.0, 70.0, 60.0],
        ],
    ]
)


def arrays(channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(2, 48 // s, 64 // s, channels)) for s in STRIDES]


def wanted(maps, strides, bins, samples, aligned, rois=ROIS):
    out = [
        [
            by_hand(maps[k][b], roi, strides[k], bins, samples, aligned)
            for roi in rois[b]
            for k in [level_by_hand(roi, strides) if len(maps) > 1 else 0]
        ]
        for b in range(len(rois))
    ]
    return np.array(out)


@pytest.mark.medium
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("bins, samples", [(7, 2), (3, 1), (2, 3)])
def test_a_pyramid_is_the_loop_over_samples(form, aligned, bins, samples):
    maps = arrays()
    with jax.enable_x64(True):
        found = jax.jit(
            lambda rois, *maps: roi_align(
                maps,
                rois,
                strides=STRIDES,
                bins=bins,
                sampling_ratio=samples,
                aligned=aligned,
                form=form,
            )
        )(jnp.asarray(ROIS), *map(jnp.asarray, maps))
        expected = wanted(maps, STRIDES, bins, samples, aligned)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert {level_by_hand(roi, STRIDES) for roi in ROIS.reshape(-1, 4)} == {0, 1, 2}


@pytest.mark.medium
@pytest.mark.parametrize("form", FORMS)
def test_one_map_of_any_stride(form):
    x = np.random.default_rng(1).normal(size=(2, 5, 9, 2))
    with jax.enable_x64(True):
        found = roi_align([jnp.asarray(x)], jnp.asarray(ROIS), strides=[10], bins=4, form=form)
        np.testing.assert_allclose(found, wanted([x], [10], 4, 2, True), rtol=0, atol=1e-9)


@pytest.mark.medium
@pytest.mark.parametrize("form", ["auto", *FORMS])
def test_gradients_are_those_of_finite_differences(form):
    """The result is linear in the maps: a difference along any direction is the gradient's product with it."""
    maps, along = arrays(2), arrays(2, seed=1)
    weight = np.random.default_rng(2).normal(size=(2, 5, 3, 3, 2))
    valid = np.array([[1, 0, 1, 1, 1], [1, 1, 1, 1, 1]], bool)

    def loss(*maps):
        out = roi_align(
            maps, jnp.asarray(ROIS), jnp.asarray(valid), strides=STRIDES, bins=3, form=form
        )
        return (out * weight).sum()

    with jax.enable_x64(True):
        grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*map(jnp.asarray, maps))
        for k, grad in enumerate(grads):
            assert np.abs(grad).max() > 1e-2, k
            step = [
                m + 1e-3 * a * (i == k) for i, (m, a) in enumerate(zip(maps, along, strict=True))
            ]
            back = [
                m - 1e-3 * a * (i == k) for i, (m, a) in enumerate(zip(maps, along, strict=True))
            ]
            slope = (loss(*map(jnp.asarray, step)) - loss(*map(jnp.asarray, back))) / 2e-3
            np.testing.assert_allclose((np.asarray(grad) * along[k]).sum(), slope, rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_regions_that_are_not_valid_give_zeros_and_no_gradient(form):
    maps = [jnp.asarray(m, jnp.float32) for m in arrays()]
    rois = ROIS.copy()
    rois[0, 1, 0], rois[0, 2, 3], rois[1, 3] = np.nan, np.inf, np.nan
    valid = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 1, 0]], bool)
    usable = valid & np.isfinite(rois).all(axis=-1)

    def pooled(*maps):
        return roi_align(
            maps, jnp.asarray(rois, jnp.float32), jnp.asarray(valid), strides=STRIDES, form=form
        )

    @jax.jit
    def both(grad, *maps):
        out, pull = jax.vjp(pooled, *maps)
        return out, pull(grad)

    poison = np.where(usable[..., None, None, None], 0.0, np.nan)
    grad = np.broadcast_to(poison, (2, 5, 7, 7, 3)).astype(np.float32)
    out, grads = both(grad, *maps)
    assert not np.asarray(out)[~usable].any() and np.asarray(out)[0, 3].any()
    for grad in grads:
        np.testing.assert_array_equal(grad, 0)


@pytest.mark.medium
@pytest.mark.parametrize("form", FORMS)
def test_the_amount_of_padding_and_the_batch_change_nothing(form):
    # Another shape is another compilation, and a CPU may fuse its multiplications and additions otherwise.
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    maps = [jnp.asarray(m, jnp.float32) for m in arrays()]
    rois = jnp.asarray(ROIS, jnp.float32)
    weight = jnp.asarray(np.random.default_rng(3).normal(size=(2, 5, 7, 7, 3)), jnp.float32)

    @jax.jit
    def run(rois, valid, weight, *maps):
        def pooled(*maps):
            return roi_align(maps, rois, valid, strides=STRIDES, form=form)

        out, pull = jax.vjp(pooled, *maps)
        return out, pull(weight)

    out, grads = run(rois, jnp.ones((2, 5), bool), weight, *maps)
    more = ((0, 0), (0, 40), (0, 0))
    padded, padded_grads = run(
        jnp.pad(rois, more, constant_values=30.0),
        jnp.pad(jnp.ones((2, 5), bool), more[:2]),
        jnp.pad(weight, (*more, (0, 0), (0, 0)), constant_values=7.0),
        *maps,
    )
    close(padded[:, :5], out)
    assert not np.asarray(padded[:, 5:]).any()
    for ours, other in zip(grads, padded_grads, strict=True):
        close(ours, other)
    one, _ = run(rois[1:], jnp.ones((1, 5), bool), weight[1:], *(m[1:] for m in maps))
    close(one[0], out[1])


@pytest.mark.medium
def test_the_forms_agree_in_narrow_numbers_too():
    maps = [jnp.asarray(m, jnp.bfloat16) for m in arrays()]
    rois = jnp.asarray(ROIS, jnp.float32)
    outs = []
    for form in FORMS:
        out, pull = jax.vjp(partial(roi_align_of, rois, form), *maps)
        grads = pull(jnp.ones_like(out))
        assert out.dtype == jnp.bfloat16 and {g.dtype for g in grads} == {jnp.dtype(jnp.bfloat16)}
        outs.append([np.asarray(x, np.float32) for x in (out, *grads)])
    for one, other in zip(*outs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.05, atol=0.05)


def roi_align_of(rois, form, *maps):
    return roi_align(maps, rois, strides=STRIDES, form=form)


def test_no_regions():
    maps = [jnp.zeros((2, 4, 4, 3))]
    assert roi_align(maps, jnp.zeros((2, 0, 4)), strides=[8]).shape == (2, 0, 7, 7, 3)


def test_levels_of_the_paper():
    sides = np.array([1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 5000.0, 0.0, np.nan])
    boxes = jnp.asarray([[10, 20, 10 + s, 20 + s] for s in sides], jnp.float32)
    levels = pyramid_level(boxes, (4, 8, 16, 32))
    np.testing.assert_array_equal(levels, [0, 0, 1, 1, 2, 2, 3, 3, 0, 0])


def test_a_program_for_an_accelerator_has_no_scatter():
    maps = [jax.ShapeDtypeStruct((1, 8 // k, 8 // k, 4), jnp.float32) for k in (1, 2)]
    rois = jax.ShapeDtypeStruct((1, 6, 4), jnp.float32)
    run = jax.jit(
        jax.grad(lambda a, b, rois: roi_align([a, b], rois, strides=[4, 8]).sum(), argnums=(0, 1))
    )
    for platform, expected in (("tpu", False), ("cuda", False), ("cpu", True)):
        text = run.trace(*maps, rois).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.scatter" in text) == expected, platform


@pytest.mark.parametrize(
    "given, said",
    [
        ({"strides": [4]}, "2 maps and 1 strides"),
        ({"strides": [4, 16]}, "consecutive powers of 2"),
        ({"strides": [6, 12]}, "consecutive powers of 2"),
        ({"strides": [4, 8], "bins": 0}, "at least 1"),
        ({"strides": [4, 8], "sampling_ratio": 0}, "at least 1"),
        ({"strides": [4, 8], "form": "fast"}, "known: auto, cpu, native"),
    ],
)
def test_settings_that_cannot_be(given, said):
    maps = [jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 2, 2, 1))]
    with pytest.raises(ValueError, match=said):
        roi_align(maps, jnp.zeros((1, 1, 4)), **given)


def test_a_head_that_flattens_regions_leaves_the_gather_along_the_channels():
    """XLA:CPU may compute in the shape of what reads. A loop that is not along the channels takes ten times as long."""
    maps = [jnp.ones((2, side, side, 48)) for side in (16, 8)]
    rois = jnp.tile(jnp.asarray([3.0, 5, 40, 50]), (2, 100, 1))

    def flat(rois, maps):
        return roi_align(maps, rois, strides=(4, 8), form="cpu").reshape(200, -1)

    text = jax.jit(flat).lower(rois, maps).compile().as_text()
    loops = [part for part in text.split("\n\n") if re.search(r"gather\(.*,48\}", part)]
    shapes = [re.search(r"ROOT \S+ = f32\[([\d,]+)\]", loop)[1] for loop in loops]
    assert shapes and all(shape.endswith(",48") for shape in shapes), shapes
