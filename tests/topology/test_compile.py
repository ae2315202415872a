"""A stage's step for chips that are not here: what is said without a TPU compiler, and with one."""

import dataclasses
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import pytest

from intern_jax import __main__ as cli
from intern_jax import pipeline
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.pipeline import preflight
from intern_jax.stages.expert import Expert
from intern_jax.topology import chips, compile, hlo
from intern_jax.train.progress import meter

GIB = 2**30
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler (extra tpu) is not installed",
)


def expert(**settings):
    backbone = {"name": "embedded_tiny", "repeats": (1, 5, 1, 5), "dtype": "bfloat16", **settings}
    return Expert(backbone, {"cls": [("things", 8)]})


def batch(rows=16, side=32):
    return {
        "cls": {
            "image": jax.ShapeDtypeStruct((rows, side, side, 3), jnp.uint8),
            "label": jax.ShapeDtypeStruct((rows,), jnp.int32),
            "source": jax.ShapeDtypeStruct((rows,), jnp.int32),
        }
    }


def test_the_roofline_by_hand():
    cost = hlo.Cost(
        [hlo.Work(flops=197e12, hbm=819e8, times=2), hlo.Work(flops=0, hbm=819e9, times=3)],
        [hlo.Collective("all-gather", bytes=200e9, chips=4, times=2)],
    )
    found = chips.roofline(cost, chips.CHIPS["v5e"])
    assert found.compute == pytest.approx(2) and found.memory == pytest.approx(3.2)
    assert found.chip == pytest.approx(5) and found.links == pytest.approx(1.5)
    assert found.step == pytest.approx(5)


KINDS = {
    "v4": "TPU v4",
    "v5e": "TPU v5 lite",
    "v5p": "TPU v5",
    "v6e": "TPU v6 lite",
    "tpu7x": "TPU7x",
}


def test_a_chip_has_the_peak_of_the_device_that_jax_makes_of_it():
    assert KINDS.keys() == chips.CHIPS.keys()
    for name, kind in KINDS.items():
        assert chips.CHIPS[name].flops == meter.PEAK_TFLOPS[kind] * 1e12


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "count"),
    [("v4:2x2x1", 4), ("v5e:2x4", 8), ("v5p:2x2x1", 4), ("v6e:2x4", 8), ("tpu7x:2x2x1", 8)],
)
def test_the_compiler_knows_each_chip_and_a_tpu7x_is_two_devices(topology, count):
    found = compile.devices(topology)
    assert len(found) == count
    assert {d.device_kind for d in found} == {KINDS[topology.partition(":")[0]]}


def report(**changes):
    memory = compile.Memory(
        arguments=9 * GIB, temporaries=8 * GIB, output=3 * GIB, aliased=3 * GIB, code=0
    )
    cost = hlo.Cost([hlo.Work(197e12, 0.0, 1)], [hlo.Collective("all-reduce", 1e9, 8, 4)])
    fields = {
        "name": "expert",
        "topology": "v5e:2x4",
        "mesh": {"data": 1, "fsdp": 8, "tensor": 1},
        "parameters": 1234567,
        "images": 64,
        "lower_seconds": 1.0,
        "compile_seconds": 2.0,
        "memory": memory,
        "cost": cost,
    }
    return compile.Report(**fields | changes)


def test_what_is_printed():
    text = compile.describe(report())
    assert "expert on v5e:2x4: mesh data 1, fsdp 8, tensor 1; 64 images per step; 1,234,567" in text
    assert "17.000 GiB of 16: does not fit" in text
    assert "197.000 TFLOP" in text and "all-reduce" in text and "4 of 4.000 GB together" in text
    assert "step 1000.00 ms at best: 64 images/s" in text and "estimate" in text
    assert "16.000 GiB of 16: fits" in compile.describe(
        report(memory=dataclasses.replace(report().memory, temporaries=7 * GIB))
    )


def test_what_the_compiler_refuses_is_told():
    text = compile._why(
        RuntimeError("XLA:TPU compile permanent error. Used 29.48G of 15.75G hbm. x\ny")
    )
    assert text == "needs 29.48GB of 15.75GB of HBM"
    said = compile.describe(report(memory=None, cost=None, refused=text))
    assert said.endswith("does not fit: needs 29.48GB of 15.75GB of HBM")


@pytest.mark.parametrize("name", ["v9x:2x4", "v5e", "v5e:"])
def test_an_unknown_chip_is_a_mistake(name):
    with pytest.raises(UserError, match="write CHIP:SHAPE, as v5e:16x16; chips: v4, v5e"):
        compile.devices(name)


def test_without_the_compiler_one_line_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert cli.main(["inspect", "--config=quickstart", "--topology=v5e:2x4"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install 'intern-jax[tpu]'" in said


def test_stage_without_topology_is_a_mistake(capsys):
    assert cli.main(["inspect", "--config=quickstart", "--stage=amateur"]) == 2
    assert "--stage needs --topology" in capsys.readouterr().err


@pytest.mark.medium
def test_the_step_compiles_on_abstract_arrays_here():
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    found = compile.compile_step(expert(scan=True), {"optim": {}}, mesh, batch(), "v5e:1x1")
    assert found.images == 16 and found.fits and found.cost.flops > 0
    assert not found.cost.unknown_loops and found.cost.collectives == []


def test_shapes_come_from_one_row_of_the_data():
    from intern_jax.core import config as config_lib

    data = config_lib.plain(config_lib.load_config("quickstart"))["generalist"]["data"]
    sources, rows = preflight.one_row(data)
    assert {group: len(found) for group, found in sources.items()} == {"cls": 3, "dense": 2}
    assert rows["cls"]["image"].shape == (1, 32, 32, 3) and rows["dense"]["mask"].shape[0] == 1
    assert preflight.as_rows(rows["cls"]["image"], 128).shape == (128, 32, 32, 3)


@needs_libtpu
@pytest.mark.slow
def test_a_tpu_program_scans_and_unrolls_to_the_same_work():
    # For maps of 4x4, at 32 pixels, the compiler may write one convolution with its border and another without.
    mesh = mesh_lib.make_mesh(fsdp=8, devices=compile.devices("v5e:2x4"))
    scanned, unrolled = (
        compile.compile_step(expert(scan=scan), {"optim": {}}, mesh, batch(side=64), "v5e:2x4")
        for scan in (True, False)
    )
    assert not scanned.cost.unknown_loops
    assert scanned.cost.flops == pytest.approx(unrolled.cost.flops, rel=0.02)
    gathered = [found.cost.by_kind()["all-gather"][1] for found in (scanned, unrolled)]
    # A block's parameters are gathered for the forward pass and again for the backward one.
    assert gathered[0] <= 2.2 * gathered[1]
    assert scanned.fits and unrolled.fits


def test_a_stage_is_compiled_with_abstract_arrays_of_the_stages_that_it_reads(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[1] / "pipeline"))
    import toy_stages

    made = toy_stages.config(
        one=toy_stages.entry("First"),
        two=toy_stages.entry("Student", start={"backbone": None, "teacher": "one"}),
    )
    stage, batch = preflight.abstract_stage(pipeline.check(made), "two")
    arrays = stage.frozen["teacher"]
    assert arrays["params"]["backbone"]["kernel"] == jax.ShapeDtypeStruct((3,), jnp.float32)
    assert set(arrays) == {"params", "batch_stats"}  # the bank is not exported
    assert batch["points"]["x"].shape == (8, 3)
