"""Compile a stage's train step, as the loop would run it, for a TPU slice or pod, on any machine with a CPU.

The step, its mesh and its shardings are those of train/loop.py; every array is abstract, so nothing is
made, and data is read for the shapes of one row. Needs the TPU compiler: the package's extra `tpu`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax import pipeline
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.data.stream import Stream
from intern_jax.topology import chips, hlo
from intern_jax.train import meter, optim, settings
from intern_jax.train import state as state_lib
from intern_jax.train.programs import Programs
from intern_jax.train.stage import Stage

# What the compiler says where a program needs more than a chip has.
_TOO_LARGE = re.compile(r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip: of the arguments, of what the step makes on the way, of its results, and of results
    that take an argument's place."""

    arguments: int
    temporaries: int
    output: int
    aliased: int
    code: int

    @property
    def peak(self) -> int:
        """What the program needs at once, by the compiler's own plan."""
        return self.arguments + self.temporaries + self.output - self.aliased + self.code


@dataclasses.dataclass(frozen=True)
class Report:
    """A step compiled for `topology`; without memory and cost where it is too large for the chip (`refused`)."""

    name: str
    topology: str
    mesh: Mapping[str, int]
    parameters: int
    images: int
    lower_seconds: float
    compile_seconds: float
    memory: Memory | None = None
    cost: hlo.Cost | None = None
    refused: str = ""

    @property
    def fits(self) -> bool:
        size = chips.chip_of(self.topology).hbm_size
        return self.memory is not None and self.memory.peak <= size

    @property
    def roofline(self) -> chips.Roofline:
        return chips.roofline(self.cost, chips.chip_of(self.topology))


def inspect(spec: str, overrides: Sequence[str], topology: str, stage: str | None = None) -> str:
    """What `inspect --config=... --topology=...` prints for one stage of a config (default: the last)."""
    config = config_lib.load_config(spec)
    config_lib.override(config, list(overrides), new=True)
    return describe(compile_config(config_lib.plain(config), topology, stage))


def compile_config(cfg: Mapping[str, Any], topology: str, name: str | None = None) -> Report:
    """Compile the step of a resolved config's stage on the config's mesh over the topology's chips."""
    cfg = pipeline.check(cfg)
    name = name or cfg["stages"][-1]
    if name not in cfg["stages"]:
        raise UserError(f"--stage={name}: no such stage; the config's: {', '.join(cfg['stages'])}")
    mesh = mesh_lib.make_mesh(**cfg["mesh"], devices=devices(topology))
    stage, batch = abstract_stage(cfg, name)
    return compile_step(stage, cfg[name]["train"], mesh, batch, topology)


def abstract_stage(cfg: Mapping[str, Any], name: str) -> tuple[Stage, Any]:
    """A checked config's stage, with abstract arrays of the stages that it reads, and its abstract batch."""
    entry = cfg[name]
    dtype = "bfloat16" if cfg["compute_dtype"] == "auto" else cfg["compute_dtype"]
    specs = {one: pipeline.in_dtype(cfg[one]["backbone"], dtype) for one in cfg["stages"]}
    sources, batch = _one_row(entry["data"])
    batch = {
        group: jax.tree.map(lambda x, rows=rows: _rows(x, rows["batch_size"]), batch[group])
        for group, rows in entry["data"].items()
    }
    stage = pipeline.build_stage(entry, specs[name], sources, specs)
    frozen = {role: entry["start"][role] for role, of in stage.roles.items() if of.frozen}
    if frozen:
        products = {role: _product(*abstract_stage(cfg, one)) for role, one in frozen.items()}
        stage.frozen = {**stage.frozen, **products}
    return stage, batch


def _product(stage: Stage, batch: Any) -> dict[str, Any]:
    """What a stage leaves for later ones, as shapes."""

    def init(key: jax.Array) -> Any:
        return stage.init(key, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), batch))

    variables = dict(
        state_lib.unbox(jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0))))
    )
    params = variables.pop("params")
    return {"params": params, **tree.partition(variables, stage.exports)[0]}


def devices(topology: str) -> list[Any]:
    """The chips of a topology ("v5e:16x16"), for compilation only. UserError where none can be had."""
    chips.chip_of(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("--topology: needs the TPU compiler; pip install 'intern-jax[tpu]'")
    # There is no TPU to ask for its place in a cloud.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # Compiling takes no chip: another process of this machine may hold them, or compile too.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(
            f"--topology={topology}: the TPU compiler refuses it ({line}); is it a slice's shape, as v5e:2x4?"
        ) from None


def compile_step(
    stage: Stage, cfg: Mapping[str, Any], mesh: jax.sharding.Mesh, batch: Any, topology: str
) -> Report:
    """Compile a stage's step for a batch of these shapes, {group: {field: [rows, ...]}}."""
    cfg = settings.check(cfg)
    mesh_lib.check_batch(mesh, batch, cfg["accumulate"])
    programs = Programs.build(stage, cfg, mesh, batch)
    arguments = _arguments(stage, programs, mesh, batch, list(optim.groups(cfg["optim"])))
    started = time.monotonic()
    lowered = programs.step.lower(*arguments)
    between = time.monotonic()
    report = Report(
        name=stage.name,
        topology=topology,
        mesh=dict(mesh.shape),
        parameters=tree.count(programs.abstract.params),
        images=meter.count_images(batch),
        lower_seconds=between - started,
        compile_seconds=0.0,
    )
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return dataclasses.replace(
            report, refused=_why(error), compile_seconds=time.monotonic() - between
        )
    return dataclasses.replace(
        report,
        compile_seconds=time.monotonic() - between,
        memory=_memory(compiled),
        cost=hlo.cost(hlo.read(compiled.as_text())),
    )


def _arguments(
    stage: Stage, programs: Programs, mesh: jax.sharding.Mesh, batch: Any, groups: Sequence[str]
) -> tuple:
    """The step's arguments (train/loop.py: _Run._arguments) without their values."""
    everywhere = mesh_lib.replicated(mesh)
    frozen = jax.tree.map(_abstract, state_lib.unbox(stage.frozen), programs.frozen)
    rows = mesh_lib.batch_sharding(mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return (
        programs.abstract,
        frozen,
        jax.tree.map(lambda x: _abstract(x, rows), batch),
        _abstract(key, everywhere),
        {name: jax.ShapeDtypeStruct((), jnp.float32, sharding=everywhere) for name in groups},
    )


def _abstract(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _one_row(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any]:
    """A stage's opened sources, and the first row of its batches."""
    groups = {name: {**group, "batch_size": 1} for name, group in data.items()}
    with Stream(groups, rows=(0, 1)) as stream:
        return stream.sources, stream.batch_at(0)


def _rows(array: np.ndarray, rows: int) -> jax.ShapeDtypeStruct:
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    return jax.ShapeDtypeStruct((rows, *array.shape[1:]), dtype)


def _memory(compiled: Any) -> Memory:
    stats = compiled.memory_analysis()
    return Memory(
        arguments=stats.argument_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        output=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )


def _why(error: Exception) -> str:
    """What the compiler refused: "needs ... of ..." where memory is short, else its first line."""
    short = _TOO_LARGE.search(str(error))
    if short:
        return f"needs {short[1]}B of {short[2]}B of HBM"
    return str(error).strip().splitlines()[0]


def describe(report: Report) -> str:
    """A report as text."""
    chip = chips.chip_of(report.topology)
    mesh = ", ".join(f"{axis} {size}" for axis, size in report.mesh.items())
    lines = [
        f"{report.name} on {report.topology}: mesh {mesh}; {report.images:,} images a step; "
        f"{report.parameters:,} parameters",
        f"lowered in {report.lower_seconds:.1f} s, compiled in {report.compile_seconds:.1f} s",
        "",
    ]
    if report.memory is None:
        return "\n".join([*lines, f"does not fit: {report.refused}"])
    return "\n".join([*lines, *_memory_lines(report, chip), "", *_work_lines(report)])


def _memory_lines(report: Report, chip: chips.Chip) -> list[str]:
    memory = report.memory
    verdict = "fits" if report.fits else "does not fit"
    rows = [
        ("arguments", memory.arguments),
        ("temporaries", memory.temporaries),
        ("output", memory.output),
        ("of it aliased", memory.aliased),
        ("code", memory.code),
    ]
    lines = ["memory per chip"]
    lines += [f"  {name:<14}{size / 2**30:>9.3f} GiB" for name, size in rows]
    size = chip.hbm_size / 2**30
    return [*lines, f"  {'peak':<14}{memory.peak / 2**30:>9.3f} GiB of {size:.0f}: {verdict}"]


def _work_lines(report: Report) -> list[str]:
    cost, time_ = report.cost, report.roofline
    lines = ["per chip and step"]
    lines.append(f"  matrix products and convolutions {cost.flops / 1e12:.3f} TFLOP")
    lines.append(f"  HBM traffic {cost.hbm / 1e9:.2f} GB")
    for kind, (count, size, sent) in sorted(cost.by_kind().items()):
        lines.append(
            f"  {kind:<19}{count:>6} of {size / 1e9:.3f} GB together, {sent / 1e9:.3f} GB sent"
        )
    if cost.unknown_loops:
        lines.append(f"  {cost.unknown_loops} loops of unknown length count once")
    lines += [
        "",
        "estimate by the data sheet (roofline; no run was made)",
        f"  compute {time_.compute * 1e3:.2f} ms, HBM {time_.memory * 1e3:.2f} ms, instruction by "
        f"instruction {time_.chip * 1e3:.2f} ms; links {time_.links * 1e3:.2f} ms",
        f"  step {time_.step * 1e3:.2f} ms at best: {report.images / time_.step:,.0f} images/s",
    ]
    return lines
