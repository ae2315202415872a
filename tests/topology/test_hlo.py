"""Reading compiled programs: FLOPs, loops, collectives and memory traffic against counts made by hand."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from intern_jax.models.metanet import MetaNet
from intern_jax.topology import hlo

# Four equal blocks after the first, of either kind.
TABLE = {
    "operators": ("mbconv", "sa"),
    "repeats": (5, 5),
    "channels": (16, 16),
    "expansions": (2, 2),
    "strides": (2, 1),
    "outputs": (0, 1),
    "stem": 16,
    "head_dim": 8,
    "features": 16,
}


def compiled(function, *shapes, dtype=jnp.float32):
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile()


def cost_of(program) -> hlo.Cost:
    return hlo.cost(hlo.read(program.as_text()))


def convolution(x, kernel, **settings):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **settings)


@pytest.mark.parametrize(
    ("shapes", "settings"),
    [
        (((2, 9, 9, 4), (3, 3, 4, 8)), {"window_strides": (1, 1), "padding": ((1, 1), (1, 1))}),
        (((2, 9, 9, 4), (3, 3, 4, 8)), {"window_strides": (2, 2), "padding": ((1, 1), (1, 1))}),
        (
            ((2, 9, 9, 4), (5, 3, 4, 8)),
            {"window_strides": (1, 2), "padding": ((4, 0), (1, 1)), "rhs_dilation": (2, 1)},
        ),
        (
            ((2, 5, 5, 4), (3, 3, 4, 8)),
            {"window_strides": (1, 1), "padding": ((1, 1), (1, 2)), "lhs_dilation": (2, 2)},
        ),
        (
            ((2, 9, 9, 4), (3, 3, 2, 8)),
            {"window_strides": (1, 1), "padding": "VALID", "feature_group_count": 2},
        ),
    ],
    ids=["padded", "strided", "dilated", "transposed", "grouped"],
)
def test_flops_of_convolutions_are_the_positions_that_exist(shapes, settings):
    x, kernel = (np.ones(shape) for shape in shapes)
    # Over ones, an output element is the number of its multiplications.
    products = convolution(x.astype(np.float32), kernel.astype(np.float32), **settings).sum()
    lowered = jax.jit(functools.partial(convolution, **settings)).lower(
        *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    )
    module = lowered.compiler_ir("hlo").as_hlo_text()
    assert hlo.cost(hlo.read(module)).flops == 2 * float(products)


def test_flops_of_matrix_products():
    def product(a, b, c):
        return jnp.einsum("bij,bjk->bik", a, b) @ c

    found = cost_of(compiled(product, (3, 16, 32), (3, 32, 8), (8, 64)))
    assert found.flops == 2 * 3 * 16 * 32 * 8 + 2 * 3 * 16 * 8 * 64


def loop(turns):
    def run(x, w):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    return compiled(run, (32, 32), (turns, 32, 32))


def test_a_loop_counts_as_often_as_it_runs():
    once = 2 * 32**3
    assert cost_of(loop(7)).flops == 7 * once


def test_nested_loops_multiply():
    def run(x, w):
        def outer(x, _):
            return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0], None

        return lax.scan(outer, x, None, length=3)[0]

    assert cost_of(compiled(run, (32, 32), (5, 32, 32))).flops == 15 * 2 * 32**3


def test_without_xlas_note_the_conditions_constant_counts():
    text = loop(7).as_text()
    assert "known_trip_count" in text
    silent = re.sub(r'"known_trip_count":\{[^}]*\},?', "", text)
    found = hlo.cost(hlo.read(silent))
    assert found.flops == 7 * 2 * 32**3 and not found.unknown_loops


def test_a_loop_without_a_bound_is_told():
    def run(x):
        # Numbers that XLA cannot know.
        return lax.while_loop(lambda x: x.sum() < 9.0 * x[0, 0], lambda x: x @ x, x)

    found = cost_of(compiled(run, (32, 32)))
    assert found.unknown_loops == 1 and found.flops == 2 * 32**3


def test_of_a_conditional_the_dearest_branch_counts():
    def run(flag, x):
        return lax.cond(flag.sum() > 0, lambda x: x @ x @ x, lambda x: x, x)

    assert cost_of(compiled(run, (2,), (32, 32))).flops == 2 * 2 * 32**3


def network_cost(scan, gradient):
    net = MetaNet(**TABLE, scan=scan)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    init = functools.partial(net.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)

    def forward(params, rest, images):
        out, _ = net.apply(rest | {"params": params}, images, train=True, mutable=["batch_stats"])
        return out["pooled"].sum()

    rest = {k: v for k, v in variables.items() if k != "params"}
    run = jax.grad(forward) if gradient else forward
    lowered = jax.jit(run).lower(variables["params"], rest, images)
    return cost_of(lowered.compile({"xla_backend_optimization_level": 0}))  # its text is the same


@pytest.mark.medium
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_a_scanned_network_does_the_work_of_the_unrolled_one(gradient):
    scanned, unrolled = (network_cost(scan, gradient) for scan in (True, False))
    assert not scanned.unknown_loops
    assert scanned.flops == pytest.approx(unrolled.flops, rel=0.01)


# What a TPU's program looks like: layouts with tiles, S(1) for what lies on the chip, a reduce-scatter that is a
# fused all-reduce, asynchronous pairs, a loop of six turns.
TPU = """
HloModule jit_step, is_scheduled=true, num_partitions=8, entry_computation_layout={()->f32[]}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter (g: f32[64,128]) -> f32[8,128] {
  %g = f32[64,128]{1,0:T(8,128)} parameter(0)
  %zero = s32[] constant(0)
  %ar = f32[64,128]{1,0:T(8,128)} all-reduce(%g), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %mine = f32[8,128]{1,0:T(8,128)} dynamic-slice(%ar, %zero, %zero), dynamic_slice_sizes={8,128}
}

%update (stack: f32[6,8,128], row: f32[1,8,128], at: s32[]) -> f32[6,8,128] {
  %stack = f32[6,8,128]{2,1,0:T(8,128)} parameter(0)
  %row = f32[1,8,128]{2,1,0:T(8,128)} parameter(1)
  %at = s32[] parameter(2)
  %none = s32[] constant(0)
  ROOT %put = f32[6,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%stack, %row, %at, %none, %none)
}

%body (state: (s32[], f32[64,128], f32[6,8,128])) -> (s32[], f32[64,128], f32[6,8,128]) {
  %state = (s32[], f32[64,128]{1,0:T(8,128)}, /*index=2*/f32[6,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %full = f32[64,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %rows = f32[6,8,128]{2,1,0:T(8,128)} get-tuple-element(%state), index=2
  %part = f32[8,128]{1,0:T(8,128)} fusion(%full), kind=kCustom, calls=%all-reduce-scatter
  %row = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%part)
  %stacked = f32[6,8,128]{2,1,0} fusion(%rows, %row, %i), kind=kLoop, calls=%update
  %begin = (f32[8,128]{1,0:T(8,128)}, f32[64,128]{1,0:T(8,128)}) all-gather-start(%part), replica_groups={}
  %whole = f32[64,128]{1,0:T(8,128)} all-gather-done(%begin)
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[64,128]{1,0:T(8,128)}, f32[6,8,128]{2,1,0:T(8,128)}) tuple(%next, %whole, %stacked)
}

%condition (state: (s32[], f32[64,128], f32[6,8,128])) -> pred[] {
  %state.1 = (s32[], f32[64,128]{1,0:T(8,128)}, f32[6,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %six = s32[] constant(6)
  ROOT %less = pred[] compare(%i.1, %six), direction=LT
}

ENTRY %main (x: f32[64,128], stack: f32[6,8,128]) -> f32[6,8,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  %empty = f32[6,8,128]{2,1,0:T(8,128)} parameter(1)
  %start = s32[] constant(0)
  %near = f32[64,128]{1,0:T(8,128)S(1)} copy(%x)
  %gram = f32[64,64]{1,0:T(8,128)S(1)} convolution(%near, %near), dim_labels=bf_oi->bf
  %first = (s32[], f32[64,128]{1,0:T(8,128)}, f32[6,8,128]{2,1,0:T(8,128)}) tuple(%start, %x, %empty)
  %loop = (s32[], f32[64,128]{1,0:T(8,128)}, f32[6,8,128]{2,1,0}) while(%first), condition=%condition, body=%body
  ROOT %result = f32[6,8,128]{2,1,0:T(8,128)} get-tuple-element(%loop), index=2
}
"""


def test_a_tpu_program():
    found = hlo.cost(hlo.read(TPU))
    whole, part = 4 * 64 * 128, 4 * 8 * 128
    assert found.flops == 2 * 64 * 64 * 128
    assert found.by_kind() == {
        "reduce-scatter": (6, 6 * whole, 6 * whole * 7 / 8),
        "all-gather": (6, 6 * whole, 6 * whole * 7 / 8),
    }
    # The copy reads x; what it makes lies on the chip. In the loop: the scattered gradient is read and its part
    # written, the part read and a row of the stack written, the part read and the whole written, two scalars read
    # and two written by the counter.
    scalars = 4 * 3 + 4
    turn = (whole + part) + (part + part + 4) + (part + whole) + (scalars - 4)
    assert found.hbm == pytest.approx(whole + 6 * turn, rel=1e-3)


def test_bytes_that_a_chip_sends_in_rings():
    sent = {kind: hlo.Collective(kind, 800.0, 8, 1).sent for kind in hlo.COLLECTIVES}
    assert sent == {
        "all-gather": 700,
        "reduce-scatter": 700,
        "all-reduce": 1400,
        "all-to-all": 700,
        "collective-permute": 800,
    }


@pytest.mark.parametrize(
    ("written", "chips"),
    [
        ("{{0,1,2},{3,4,5}}", 3),
        ("[4,64]<=[64,4]T(1,0), dimensions={0}", 64),
        ("{}", 256),
        ("mesh['axis_0'=64,'axis_1'=1,'axis_2'=4] {'axis_2'}, dimensions={2}", 4),
        ("mesh['axis_0'=4,'axis_1'=64], device_ids=([64,4]T(1,0)) {'axis_0','axis_1'}", 256),
        ("mesh['axis_0'=4,'axis_1'=64], device_ids=([64,4]T(1,0)) {'axis_1'}, dim={0}", 64),
        ("mesh['axis_0'=8,'axis_1'=4] {'axis_0':(2)4,'axis_1'}", 16),
    ],
)
def test_the_chips_of_a_collective_in_every_form_they_are_written_in(written, chips):
    assert hlo._group(f"%x), channel_id=7, replica_groups={written}, metadata={{}}", 256) == chips


def test_groups_in_a_form_that_is_not_known_are_no_guess():
    with pytest.raises(ValueError, match="replica_groups: spiral"):
        hlo._group("%x), replica_groups=spiral<3>, dimensions={0}", 256)
