"""The number of multiply-adds of a function, read from its jaxpr without running or compiling it.

Matrix products and convolutions count, a product and its addition as one, as in papers.
Normalisations, activations, softmax and pooling do not. Dead code does not count either.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, cast

from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var


def multiply_adds(jaxpr: ClosedJaxpr | Jaxpr, results: int | None = None) -> int:
    """Multiply-adds of the first `results` outputs (None: all) of a jaxpr from `jax.make_jaxpr`.

    The body of a scan counts once per iteration. Where platforms have different forms, the default
    (the accelerators' form) counts; of other branches the most costly one. ValueError for a loop of
    unknown length that holds products.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return sum(_of_equation(equation) for equation in _live(jaxpr, jaxpr.outvars[:results]))


def _live(jaxpr: Jaxpr, results: Sequence[Any]) -> Iterator[JaxprEqn]:
    """The equations that `results` depend on, last first."""
    needed = {v for v in results if isinstance(v, Var)}
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(v for v in equation.invars if isinstance(v, Var))
            yield equation


def _of_equation(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = _array(equation.invars[0]).shape
        return _array(equation.outvars[0]).size * prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = _array(equation.invars[1])
        outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        sums = _array(equation.outvars[0]).size * (kernel.size // outputs)
        # The zeros inside a dilated map (in the gradient of a strided convolution) are not multiplied.
        return sums // prod(params["lhs_dilation"])
    if name == "cond":
        branches = [multiply_adds(branch) for branch in params["branches"]]
        platforms = params.get("branches_platforms") or ()
        return branches[platforms.index(None)] if None in platforms else max(branches)
    inside = sum(multiply_adds(inner) for inner in _jaxprs(params))
    if name == "while" and inside:
        raise ValueError("a loop of unknown length: its multiply-adds cannot be counted")
    return inside * params["length"] if name == "scan" else inside


def _array(value: Var | Literal) -> ShapedArray:
    """What is known of an operand or result of a product, which is always an array."""
    return cast(ShapedArray, value.aval)


def _jaxprs(params: Mapping[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, ClosedJaxpr | Jaxpr):
                yield item
