"""Products of the last axes of a map with a kernel, with a CPU form of their gradient.

In autodiff's form, the gradient of the kernel sums over several axes of the map. XLA:CPU then copies both operands with
the channels in front, which is strided and slow. If these axes are reshaped to one, it makes no copy. On accelerators,
which tile the last two axes, the reshape itself would be a copy.
"""

from functools import partial
from math import prod

import jax
from jax import lax

from intern_jax.ops.forms import by_platform


def linear(x: jax.Array, kernel: jax.Array, inputs: int = 1, form: str = "auto") -> jax.Array:
    """Contract the last `inputs` axes of x [..., *I] with the first ones of kernel [*I, *O]; returns [..., *O].

    `form` forces the form of the gradient, "cpu" or "native".
    """
    return _linear(x, kernel, inputs, form)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _linear(x, kernel, inputs, _form):
    first = x.ndim - inputs
    over = (tuple(range(first, x.ndim)), tuple(range(inputs)))
    return lax.dot_general(x, kernel, (over, ((), ())))


def _forward(x, kernel, inputs, form):
    return _linear(x, kernel, inputs, form), (x, kernel)


def _backward(inputs, form, saved, grad):
    x, kernel = saved
    outputs = kernel.ndim - inputs
    over = (tuple(range(grad.ndim - outputs, grad.ndim)), tuple(range(inputs, kernel.ndim)))
    d_x = lax.dot_general(grad, kernel, (over, ((), ())))
    cpu = partial(_flat, shape=kernel.shape, inputs=inputs)
    native = partial(_as_it_is, inputs=inputs)
    return d_x, by_platform(form, cpu, native, x, grad)


_linear.defvjp(_forward, _backward)


def _flat(x, grad, shape, inputs):
    rows = (x.reshape(-1, prod(shape[:inputs])), grad.reshape(-1, prod(shape[inputs:])))
    return lax.dot_general(*rows, (((0,), (0,)), ((), ()))).reshape(shape)


def _as_it_is(x, grad, inputs):
    over = tuple(range(x.ndim - inputs))
    return lax.dot_general(x, grad, ((over, over), ((), ())))
