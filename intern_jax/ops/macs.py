"""The number of multiply-adds of a function, read from its jaxpr without running or compiling it.

Matrix products and convolutions count, a product and its addition as one, as in papers.
Normalisations, activations, softmax and pooling do not. Dead code does not count either.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, cast

from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var


def multiply_adds(jaxpr: ClosedJaxpr | Jaxpr, results: int | slice | None = None) -> int:
    """Multiply-adds of some outputs of a jaxpr from `jax.make_jaxpr`: the first `results`, or that slice, or all.

    The body of a scan counts once per iteration. Where platforms have different forms, the default
    (the accelerators' form) counts; of other branches the most costly one. ValueError for a loop of
    unknown length that holds products.
    """
    return sum(_of_equation(equation) for equation in _live(jaxpr, results)[0])


def inputs_used(jaxpr: ClosedJaxpr | Jaxpr, results: int | slice | None = None) -> list[bool]:
    """Whether each input of a jaxpr is needed for some of its outputs; `results` as in `multiply_adds`.

    All inputs of an inner function count, such as a scan, if any of its outputs is needed.
    """
    _, needed = _live(jaxpr, results)
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return [variable in needed for variable in jaxpr.invars]


def _live(
    jaxpr: ClosedJaxpr | Jaxpr, results: int | slice | None
) -> tuple[list[JaxprEqn], set[Var]]:
    """The equations that the results depend on, last first, and all variables that they depend on."""
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    chosen = results if isinstance(results, slice) else slice(results)
    needed = {v for v in jaxpr.outvars[chosen] if isinstance(v, Var)}
    found = []
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(v for v in equation.invars if isinstance(v, Var))
            found.append(equation)
    return found, needed


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
