"""Milliseconds of depthwise convolution, attention and strided convolution on a CPU, form by form, beside PyTorch.

    python -m tools.bench.ops [--torch-python=PATH] [--rounds=5] [--seconds=0.5] [--cases=depthwise,attention,conv]
                               [--out=FILE.json]

Forms: `native`, XLA's own operation, as accelerators run it; `rows`, for depthwise, shifted multiply-adds whose kernel
gradient is a loop over the rows of the map (what this package did first); `cpu`, what it does now; `torch`, channels
last. float32, two threads. Each form is a process of its own, they take turns, figures are medians over rounds; the
first call of a turn is not counted. "both" is the value and the gradients of everything. --torch-python: a Python with
torch; by default that of `make peers`, and without either that form is left out.
"""

import argparse
import functools
import json
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

from intern_jax.processes import memory
from tools import peers
from tools.bench import measured
from tools.bench.measured import Cell, Column, Measured
from tools.bench.turns import Turn, answer, rate_of_calls, use_cores

# Operator -> cases: a map [B,H,W,C], kernel side, stride, and output channels of a convolution; or [B,N,heads,D].
CASES: dict[str, list[tuple]] = {
    "depthwise": [
        ((16, 56, 56, 128), 3, 1),
        ((16, 28, 28, 256), 3, 1),
        ((16, 14, 14, 512), 3, 1),
        ((64, 4, 4, 960), 3, 1),
        ((16, 56, 56, 128), 3, 2),
        ((16, 28, 28, 128), 5, 1),
        ((16, 56, 56, 128), 7, 1),
        ((16, 55, 57, 128), 3, 2),
    ],
    "conv": [
        ((64, 2, 2, 512), 3, 1, 512),
        ((64, 16, 16, 128), 3, 2, 128),
        ((16, 56, 56, 64), 3, 1, 64),
    ],
    "attention": [(16, 197, 6, 64), (64, 17, 6, 64), (16, 785, 4, 32)],
}
FORMS = {
    "depthwise": ("native", "rows", "cpu", "torch"),
    "conv": ("native", "cpu", "torch"),
    "attention": ("native", "cpu", "torch"),
}

EVERY = ("native", "rows", "cpu", "torch")
COLUMNS: tuple[Column, ...] = (
    {"name": "operator"},
    {"name": "case"},
    {"name": "mode"},
    *({"name": form, "unit": "ms", "digits": 2} for form in EVERY),
)


def main() -> None:
    """Every case; prints a Markdown row as soon as one is done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    peers.add_flag(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        serve(*json.loads(args.one))
        return
    given, rows = measured.provenance("tools.bench.ops"), []
    print(measured.head(COLUMNS), flush=True)
    for operator in args.cases.split(","):
        forms = [form for form in FORMS[operator] if form != "torch" or args.torch_python]
        for index, case in enumerate(CASES[operator]):
            for mode in ("value", "both"):
                times = compare(args, operator, index, mode, forms)
                rows.append([operator, said(operator, case), mode, *map(times.get, EVERY)])
                print(measured.line(rows[-1], COLUMNS), flush=True)
    if args.out:
        table(rows, args, given).write(args.out)


def table(rows: list[list[Cell]], args: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """The measurement of all cases."""
    notes = [
        "native is XLA's own operation, cpu what runs on a CPU, rows depthwise convolution's first "
        "form; both is value and gradients.",
        f"float32, two threads; medians of {args.rounds} rounds of {args.seconds:g} s by turns.",
    ]
    title = "Operators on a CPU, form by form, beside PyTorch"
    return Measured(title=title, key=3, columns=COLUMNS, rows=rows, notes=notes, **given)


def said(operator: str, case: tuple) -> str:
    if operator == "attention":
        return "batch {}, {} tokens, {} heads of {}".format(*case)
    (batch, height, width, channels), side, stride, *out = case
    more = f" to {out[0]}" if out else ""
    return f"{batch} x {height} x {width} x {channels}{more}, side {side}, stride {stride}"


def compare(
    args: argparse.Namespace, operator: str, index: int, mode: str, forms: list[str]
) -> dict[str, float]:
    """Milliseconds of each form, by turns."""
    sides = {}
    for form in forms:
        python = str(args.torch_python) if form == "torch" else sys.executable
        one = f"--one={json.dumps([operator, index, mode, form])}"
        sides[form] = Turn(python, __file__, [one], memory.huge_pages())
    rates: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(args.rounds):
        for form, process in sides.items():
            rates[form].append(process.round(args.seconds))
    for process in sides.values():
        process.close()
    return {form: 1e3 / statistics.median(found) for form, found in rates.items()}


def serve(operator: str, index: int, mode: str, form: str) -> None:
    """Answer each line of seconds by calls per second."""
    use_cores(2)
    make = torch_call if form == "torch" else jax_call
    call = make(operator, CASES[operator][index], mode, form)
    call()
    answer({}, lambda seconds: rate_of_calls(call, seconds))


def jax_call(operator: str, case: tuple, mode: str, form: str) -> Callable[[], Any]:
    """One call of our operator in that form."""
    import jax

    from intern_jax.ops.attention import attention
    from intern_jax.ops.conv import conv
    from intern_jax.ops.depthwise import depthwise_conv

    def array(seed: int, shape: tuple) -> jax.Array:
        return jax.random.normal(jax.random.key(seed), shape)

    if operator == "attention":
        operands = tuple(array(seed, case) for seed in range(3))
        function = functools.partial(attention, form=form)
    else:
        shape, side, stride, *out = case
        kernel = (side, side, shape[-1], *out)
        operands = (array(0, shape), array(1, kernel))
        ours = depthwise_conv if operator == "depthwise" else conv
        function = functools.partial(ours, stride=stride, form=form)
        if form == "rows":
            function = functools.partial(depthwise_by_rows, stride=stride)
    grad = array(3, jax.eval_shape(function, *operands).shape)

    @jax.jit
    def both(operands, grad):
        value, pull = jax.vjp(function, *operands)
        return value, pull(grad)

    value = jax.jit(function)
    run = (lambda: both(operands, grad)) if mode == "both" else (lambda: value(*operands))
    return lambda: jax.block_until_ready(run())


def depthwise_by_rows(x: Any, kernel: Any, stride: int) -> Any:
    """Shifted multiply-adds; the kernel's gradient by a loop over the rows of the map."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from intern_jax.ops import depthwise
    from intern_jax.ops.forms import pad_map

    shifted = functools.partial(depthwise._shifted, stride=stride)

    @jax.custom_vjp
    def convolve(x, kernel):
        return shifted(x, kernel)

    def backward(saved, grad):
        x, kernel = saved
        side, width = len(kernel), grad.shape[2]
        d_x = depthwise._shifted_vjp(x, kernel, grad, stride)[0]
        padded = pad_map(x, side)

        def add_row(r, total):
            rows = lax.dynamic_slice_in_dim(padded, r * stride, side, axis=1)
            out = lax.dynamic_slice_in_dim(grad, r, 1, axis=1)
            taps = [
                jnp.sum(rows[:, :, j : j + stride * (width - 1) + 1 : stride] * out, axis=(0, 2))
                for j in range(side)
            ]
            return total + jnp.stack(taps, axis=1)

        return d_x, lax.fori_loop(0, grad.shape[1], add_row, jnp.zeros(kernel.shape))

    convolve.defvjp(lambda x, kernel: (shifted(x, kernel), (x, kernel)), backward)
    return convolve(x, kernel)


def torch_call(operator: str, case: tuple, mode: str, _form: str) -> Callable[[], Any]:
    """One call of the peer, in another environment: nothing of this package is imported."""
    import torch

    torch.set_num_threads(2)
    functional = torch.nn.functional
    if operator == "attention":
        batch, tokens, heads, size = case
        operands = tuple(torch.randn(batch, heads, tokens, size) for _ in range(3))
        function = functional.scaled_dot_product_attention
    else:
        (batch, height, width, channels), side, stride, *out = case
        groups = 1 if out else channels
        kernel = torch.randn(out[0] if out else channels, channels // groups, side, side)
        operands = tuple(
            t.to(memory_format=torch.channels_last)
            for t in (torch.randn(batch, channels, height, width), kernel)
        )
        settings = {"stride": stride, "padding": side // 2, "groups": groups}
        function = functools.partial(functional.conv2d, **settings)
    grad = torch.randn_like(function(*operands))

    def value():
        with torch.inference_mode():
            function(*operands)

    def both():
        leaves = [operand.detach().requires_grad_() for operand in operands]
        torch.autograd.grad(function(*leaves), leaves, grad)

    return both if mode == "both" else value


if __name__ == "__main__":
    main()
