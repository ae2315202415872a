"""CLIP's ResNet at other sizes and in a scan. tests/weights/test_clip.py compares it with open_clip's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metanet_fixture import quick_jit, random_variables

from intern_jax.models.clip_resnet import ClipResNet
from intern_jax.models.layers.blocks import positions_of
from intern_jax.ops.pooling import mean_pool

NET = ClipResNet(repeats=(1, 3, 1, 1), width=4, heads=4, out_dim=6, image_size=64)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 2)])
def test_mean_pool_keeps_the_last_row_of_an_odd_side(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    found = np.asarray(mean_pool(x, 2))
    rows, cols = (-(-side // 2) for side in size)
    assert found.shape == (2, rows, cols, 3)
    for r in range(rows):
        for c in range(cols):
            window = x[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean(axis=(1, 2))
            np.testing.assert_allclose(found[:, r, c], window, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mean_pool(x, 1), x)


def test_another_size_resizes_the_positions_as_a_vit_does():
    image = np.random.default_rng(1).normal(size=(2, 96, 128, 3)).astype(np.float32)
    tree = random_variables(NET, image)
    pool = tree["params"]["attention_pool"]
    ours = quick_jit(lambda v, x: NET.apply(v, x, train=False))(tree, image)
    # By hand, from the last map on.
    tokens = np.asarray(ours["layer4"], np.float64).reshape(2, 12, -1)
    tokens = np.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
    tokens = tokens + np.asarray(positions_of(jnp.asarray(pool["position_embedding"]), 2, (3, 4)))
    wanted = np.zeros((2, 6)) + pool["project"]["bias"]
    for head in range(4):
        part = slice(head * 32, head * 32 + 32)
        q, k, v = (
            tokens @ pool[name]["kernel"][:, 0, head] + pool[name]["bias"][part]
            for name in ("query", "key", "value")
        )
        scores = np.exp(q[:, :1] @ k.swapaxes(1, 2) / np.sqrt(32))
        seen = (scores / scores.sum(axis=-1, keepdims=True)) @ v
        wanted += seen[:, 0] @ pool["project"]["kernel"][head]
    largest = np.abs(wanted).max()
    np.testing.assert_allclose(ours["pooled"], wanted, rtol=0, atol=1e-5 * largest)


def test_a_scan_over_its_blocks_changes_no_number():
    image = np.random.default_rng(1).normal(size=(2, 64, 64, 3))
    with jax.enable_x64(True):
        tree = random_variables(NET, jnp.asarray(image))
        one_by_one, scanned = (
            quick_jit(functools.partial(net.apply, train=True, mutable=["batch_stats"]))(
                tree, image
            )
            for net in (NET, NET.clone(scan=True, remat="blocks"))
        )
    for ours, theirs in zip(*map(jax.tree.leaves, (one_by_one, scanned)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)
