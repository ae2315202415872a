"""ViT against its definition in numpy in both forms; positions, maps and odd sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metanet_fixture import flat, quick_jit, random_variables
from PIL import Image
from scipy.special import erf, expit

from intern_jax.models.vit import ViT, to_stride
from intern_jax.ops.macs import multiply_adds

TIMM = ViT(width=12, depth=5, heads=3, patch=8, image_size=24)
CLIP = TIMM.clone(patch_bias=False, pre_norm=True, activation="quick_gelu", epsilon=1e-5, out_dim=7)


def _reference(net, arrays, image):
    """The class token's way through the network in numpy, one head at a time."""
    arrays = {name.removeprefix("params/"): value for name, value in arrays.items()}

    def norm(name, x):
        unit = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + net.epsilon)
        return unit * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]

    def linear(name, x):
        return x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]

    def attend(name, x):
        kernel, bias = arrays[f"{name}/qkv/kernel"], arrays[f"{name}/qkv/bias"]
        out = np.zeros_like(x) + arrays[f"{name}/project/bias"]
        for head in range(net.heads):
            q, k, v = (
                x @ kernel[:, part, head] + bias.reshape(3, net.heads, -1)[part, head]
                for part in range(3)
            )
            scores = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]))
            weights = scores / scores.sum(-1, keepdims=True)
            out += weights @ v @ arrays[f"{name}/project/kernel"][head]
        return out

    side, kernel = net.patch, arrays["patch_embed/kernel"]
    patches = [
        np.einsum("bijc,ijcd->bd", image[:, r : r + side, c : c + side], kernel)
        for r in range(0, image.shape[1], side)
        for c in range(0, image.shape[2], side)
    ]
    patches = np.stack(patches, axis=1) + arrays.get("patch_embed/bias", 0.0)
    cls = np.broadcast_to(arrays["cls_token"], (len(image), 1, net.width))
    x = np.concatenate([cls, patches], axis=1) + arrays["position_embedding"]
    x = norm("norm_pre", x) if net.pre_norm else x
    for index in range(net.depth):
        name = f"blocks_{index}"
        x = x + attend(f"{name}/attention", norm(f"{name}/attention_norm", x))
        y = linear(f"{name}/mlp_expand", norm(f"{name}/mlp_norm", x))
        y = y * (expit(1.702 * y) if net.pre_norm else 0.5 * (1 + erf(y / np.sqrt(2))))
        x = x + linear(f"{name}/mlp_project", y)
    x = norm("norm", x)
    pooled = x[:, 0] @ arrays["projection/kernel"] if net.out_dim else x[:, 0]
    return pooled, x[:, 1:]


@pytest.mark.parametrize("net", [TIMM, CLIP], ids=["timm", "clip"])
def test_equals_the_definition(net):
    image = np.random.default_rng(1).normal(size=(2, 24, 24, 3))
    with jax.enable_x64(True):
        tree = random_variables(net, image)
        ours = quick_jit(lambda v, x: net.apply(v, x, train=False))(tree, image)
        pooled, patches = _reference(net, flat(tree), image)
        np.testing.assert_allclose(ours["pooled"], pooled, rtol=1e-9, atol=1e-9)
        # layer2 has the stride of the patches: the tokens after the second quarter, normalised.
        shallow = net.clone(depth=net.layer_depths[1])
        _, patches = _reference(shallow, flat(tree), image)
        expected = patches.reshape(2, 3, 3, -1)
        np.testing.assert_allclose(ours["layer2"], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("grid", [(3, 3), (5, 4), (2, 3), (6, 6)])
def test_positions_of_another_grid_are_pillows_bicubic(grid):
    rng = np.random.default_rng(0)
    learned = rng.normal(size=(1 + 16, 2)).astype(np.float32)
    net = ViT(width=2, depth=4, heads=1, patch=4, image_size=16)
    bound = net.bind({"params": {"position_embedding": learned, "cls_token": np.zeros(2)}})
    ours = bound._positions(grid)
    np.testing.assert_array_equal(ours[0], learned[0])
    for channel in range(2):
        picture = Image.fromarray(learned[1:, channel].reshape(4, 4))
        expected = np.asarray(picture.resize(grid[::-1], Image.Resampling.BICUBIC))
        found = ours[1:, channel].reshape(grid)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_image_is_padded_with_zeros_on_the_right_and_at_the_bottom():
    image = np.random.default_rng(1).normal(size=(1, 21, 18, 3)).astype(np.float32)
    padded = np.pad(image, ((0, 0), (0, 3), (0, 6), (0, 0)))
    tree = random_variables(TIMM, padded)
    run = quick_jit(lambda v, x: TIMM.apply(v, x, train=False))
    one, other = run(tree, image), run(tree, padded)
    np.testing.assert_allclose(one["pooled"], other["pooled"], rtol=1e-5, atol=1e-6)
    assert one["layer1"].shape == (1, 6, 5, 12) and other["layer1"].shape == (1, 6, 6, 12)
    np.testing.assert_allclose(one["layer1"], other["layer1"][:, :, :5], rtol=1e-5, atol=1e-6)


def test_maps_of_other_strides():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 5, 2)).astype(np.float32)
    np.testing.assert_array_equal(to_stride(x, 16, 16, (40, 80)), x)
    half = to_stride(x, 16, 32, (40, 80))
    assert half.shape == (1, 2, 3, 2)
    np.testing.assert_allclose(half[0, 0, 1], x[0, :2, 2:4].mean(axis=(0, 1)), rtol=1e-5)
    # The last window holds one token alone.
    np.testing.assert_allclose(half[0, 1, 2], x[0, 2, 4], rtol=1e-5)
    # A map of stride 8: pixel centres a quarter of a token from the token's centre.
    fine = np.asarray(to_stride(x, 16, 8, (40, 77)))
    assert fine.shape == (1, 5, 10, 2)
    ramp = np.broadcast_to(np.arange(5.0)[None, None, :, None], (1, 3, 5, 1))
    line = np.asarray(to_stride(ramp, 16, 8, (40, 77)))[0, 0, :, 0]
    np.testing.assert_allclose(line[1:-1], (np.arange(1, 9) - 0.5) / 2, rtol=1e-6)
    # A patch that no stride divides.
    for stride in (4, 8, 16, 32):
        map_ = to_stride(np.ones((1, 3, 4, 2), np.float32), 14, stride, (42, 56))
        assert map_.shape == (1, -(-42 // stride), -(-56 // stride), 2)
        np.testing.assert_allclose(map_, 1.0, rtol=1e-6)


def test_a_patch_that_the_mask_hides_changes_no_other_token():
    image = np.random.default_rng(0).normal(size=(2, 24, 24, 3))
    other = image.copy()
    other[1, 8:16, :8] += 1.0
    mask = np.ones((2, 3, 3), bool)
    mask[1, 1, 0] = False
    with jax.enable_x64(True):
        tree = random_variables(TIMM, jnp.asarray(image))
        deep = TIMM.clone(depth=8)

        @quick_jit
        def pooled(x, mask):
            return TIMM.apply(tree, x, False, None, mask)["pooled"]

        np.testing.assert_allclose(pooled(image, mask), pooled(other, mask), rtol=1e-10)
        assert np.abs(pooled(image, mask | True) - pooled(other, mask | True))[1].max() > 1e-3
        tree = random_variables(deep, jnp.asarray(image))
        one_by_one, scanned = (
            quick_jit(functools.partial(net.apply, train=False))(tree, image, mask=mask)
            for net in (deep, deep.clone(scan=True, remat="blocks"))
        )
        for name, value in one_by_one.items():
            np.testing.assert_allclose(scanned[name], value, rtol=1e-10, err_msg=name)


def test_compute_in_bfloat16():
    net = CLIP.clone(dtype=jnp.bfloat16)
    image = jnp.zeros((1, 30, 30, 3))
    out, tree = jax.eval_shape(
        lambda k: net.init_with_output(k, image, train=False), jax.random.key(0)
    )
    assert {out[f"layer{level}"].dtype for level in range(1, 5)} == {jnp.dtype("bfloat16")}
    assert out["pooled"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


@pytest.mark.medium
@pytest.mark.parametrize("keep, count", [(0.5, 18), (0.29, 10), (0.01, 1)])
def test_training_sees_a_share_of_the_patches_each_in_its_place(keep, count):
    """What is kept shows in the map of the patches' stride; to hide the others gives the same."""
    net = CLIP.clone(keep=keep, image_size=48)
    image = np.random.default_rng(0).normal(size=(4, 48, 48, 3))
    rngs = {"dropout": jax.random.key(3, impl="rbg")}
    with jax.enable_x64(True):
        tree = random_variables(net, jnp.asarray(image))
        trained = quick_jit(lambda x: net.apply(tree, x, True, rngs=rngs))(image)
        kept = np.abs(np.asarray(trained["layer2"])).max(axis=-1) > 0
        assert kept.reshape(4, -1).sum(axis=1).tolist() == [count] * 4
        assert len({row.tobytes() for row in kept}) > 1
        run = quick_jit(lambda x, mask: net.apply(tree, x, False, None, mask))
        hidden = run(image, kept)
        np.testing.assert_allclose(trained["pooled"], hidden["pooled"], rtol=1e-9)
        shown = np.where(kept[..., None], hidden["layer2"], 0)
        np.testing.assert_allclose(trained["layer2"], shown, rtol=1e-9, atol=1e-12)
        # A mask hides patches of those that are kept.
        mask = np.ones_like(kept)
        mask[:, :3] = False
        both = quick_jit(lambda x, m: net.apply(tree, x, True, None, m, rngs=rngs))(image, mask)
        np.testing.assert_allclose(both["pooled"], run(image, kept & mask)["pooled"], rtol=1e-9)


def test_keep_of_all_is_no_setting_and_evaluation_sees_all():
    image = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
    tree = random_variables(CLIP, image)
    rngs = {"dropout": jax.random.key(3, impl="rbg")}
    plain, all_of_them = (
        quick_jit(lambda x, net=net: net.apply(tree, x, True, rngs=rngs))(image)
        for net in (CLIP, CLIP.clone(keep=1.0))
    )
    evaluated = quick_jit(lambda x: CLIP.clone(keep=0.5).apply(tree, x, False))(image)
    for name, value in plain.items():
        np.testing.assert_array_equal(all_of_them[name], value)
        np.testing.assert_allclose(evaluated[name], value, rtol=1e-6, atol=1e-6)


def test_fewer_patches_cost_less_in_every_block():
    def cost(keep):
        net = ViT(width=64, depth=12, heads=1, patch=8, image_size=64, keep=keep)
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        tree = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False))

        def run(tree, image):
            rngs = {"dropout": jax.random.key(0)}
            return net.apply(tree, image, True, rngs=rngs)["pooled"]

        return multiply_adds(jax.make_jaxpr(run)(tree, image), 1)

    assert cost(0.5) < 0.55 * cost(1.0)
