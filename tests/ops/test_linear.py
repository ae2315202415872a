"""Linear maps of the last axes: both forms of the gradient against autodiff of the plain product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.ops.linear import linear

SHAPES = [
    ((2, 3, 5, 4), (4, 6), 1),
    ((2, 5, 4), (4, 3, 2, 6), 1),
    ((2, 5, 2, 3), (2, 3, 7), 2),
    ((3, 4), (4, 5), 1),
]


@pytest.mark.parametrize("form", ["auto", "cpu", "native"])
@pytest.mark.parametrize("x_shape, kernel_shape, inputs", SHAPES)
def test_value_and_gradients(form, x_shape, kernel_shape, inputs):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel = (jnp.asarray(rng.normal(size=shape)) for shape in (x_shape, kernel_shape))
        ours = jax.jit(lambda x, kernel: jax.vjp(lambda *a: linear(*a, inputs, form), x, kernel))
        out, pull = ours(x, kernel)
        expected, reference = jax.vjp(lambda *a: jnp.tensordot(*a, inputs), x, kernel)
        np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
        grad = jnp.asarray(rng.normal(size=out.shape))
        for mine, right in zip(pull(grad), reference(grad), strict=True):
            assert mine.shape == right.shape
            np.testing.assert_allclose(mine, right, rtol=1e-12, atol=1e-12)


def test_an_unknown_form_is_named():
    with pytest.raises(ValueError, match="form is 'fast'"):
        jax.vjp(lambda x: linear(x, jnp.ones((2, 2)), form="fast"), jnp.ones((1, 2)))[1](
            jnp.ones((1, 2))
        )
