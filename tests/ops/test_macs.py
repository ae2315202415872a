"""Counting multiply-adds: products written out, loops, branches, and what does not count."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from intern_jax.ops.attention import attention
from intern_jax.ops.depthwise import depthwise_conv
from intern_jax.ops.macs import inputs_used, multiply_adds


def count(function, *shapes, results=None):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return multiply_adds(jax.make_jaxpr(function)(*inputs), results)


def conv(x, kernel, stride=1, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def test_products_and_convolutions():
    assert count(jnp.matmul, (4, 5), (5, 6)) == 4 * 5 * 6
    assert count(lambda a, b: jnp.einsum("bnd,bmd->bnm", a, b), (2, 3, 7), (2, 4, 7)) == 2 * 84
    assert count(conv, (2, 8, 6, 3), (3, 3, 3, 5)) == 2 * 48 * 5 * 27
    assert count(partial(conv, stride=2), (1, 7, 7, 3), (3, 3, 3, 5)) == 16 * 5 * 27
    assert count(partial(conv, groups=4), (1, 8, 8, 4), (3, 3, 1, 4)) == 64 * 4 * 9


def test_of_two_forms_the_accelerators_counts():
    assert count(depthwise_conv, (1, 8, 8, 4), (3, 3, 4)) == 64 * 4 * 9
    assert count(attention, *[(1, 10, 2, 8)] * 3) == 2 * 10 * 10 * 16


def test_sums_activations_and_pooling_are_free():
    assert count(lambda x: jax.nn.gelu(x.mean(axis=(1, 2)) + 1.0), (2, 8, 8, 3)) == 0


def test_inside_jit_remat_and_scan():
    def scanned(x, kernels):
        step = jax.checkpoint(jax.jit(lambda x, kernel: (jnp.tanh(x @ kernel), None)))
        return lax.scan(step, x, kernels)[0]

    assert count(scanned, (4, 6), (7, 6, 6)) == 7 * 4 * 36


def test_the_dearest_branch_counts():
    def branch(x, y):
        return lax.cond(x[0, 0] > 0, lambda: x @ x @ y, lambda: x @ y)

    assert count(branch, (5, 5), (5, 5)) == 2 * 125


def test_what_no_counted_result_needs_does_not_count():
    def both(x):
        jnp.exp(x @ x)
        return x @ x[:, :1], x @ x

    assert count(both, (5, 5), results=1) == 25
    assert count(both, (5, 5)) == 25 + 125


def test_a_loop_of_unknown_length():
    def loop(x):
        return lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="unknown length"):
        count(loop, (3, 3))


def test_a_strided_convolutions_gradients_count_as_much_as_it_does():
    def gradients(x, kernel, grad):
        return jax.vjp(partial(conv, stride=2), x, kernel)[1](grad)

    forward = 16 * 5 * 27
    assert count(gradients, (1, 8, 8, 3), (3, 3, 3, 5), (1, 4, 4, 5)) == 2 * forward


def test_chosen_results_and_the_inputs_that_they_need():
    def three(a, b, c):
        joined = jax.jit(lambda x, y: x @ y)(a, b)
        return a @ b, joined @ c, c + 1.0

    inputs = [jax.ShapeDtypeStruct((5, 5), jnp.float32)] * 3
    jaxpr = jax.make_jaxpr(three)(*inputs)
    assert multiply_adds(jaxpr) == 3 * 125 and multiply_adds(jaxpr, 1) == 125
    assert multiply_adds(jaxpr, slice(1, 2)) == 2 * 125 and multiply_adds(jaxpr, slice(2, 3)) == 0
    assert inputs_used(jaxpr, 1) == [True, True, False]
    assert inputs_used(jaxpr, slice(2, 3)) == [False, False, True]
    assert inputs_used(jaxpr) == [True] * 3
