"""Compile a stage's train step for a TPU slice or pod, on any machine with a CPU.

The step, its mesh and its shardings are those of the training loop. All arrays are abstract, and data is
read only for the shapes of one row. It needs the TPU compiler: the package's extra `tpu`.
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

from intern_jax import pipeline
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.pipeline import preflight
from intern_jax.topology import chips, hlo
from intern_jax.train import settings
from intern_jax.train.programs import Programs
from intern_jax.train.progress import meter
from intern_jax.train.stage import Stage

# The compiler's message about a program that needs more memory than a chip has.
_TOO_LARGE = re.compile(r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device: of arguments, temporary arrays, results, and results that reuse an argument's memory."""

    arguments: int
    temporaries: int
    output: int
    aliased: int
    code: int

    @property
    def peak(self) -> int:
        """The largest number of bytes that the program needs at once, by the compiler's plan."""
        return self.arguments + self.temporaries + self.output - self.aliased + self.code


@dataclasses.dataclass(frozen=True)
class Report:
    """A step compiled for `topology`. If it is too large for the chip (`refused`), memory and cost are missing."""

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
        """The least time that the step takes; ValueError for one that was refused."""
        if self.cost is None:
            raise ValueError(f"{self.name} was not compiled: {self.refused}")
        return chips.roofline(self.cost, chips.chip_of(self.topology))


def inspect(spec: str, overrides: Sequence[str], topology: str, stage: str | None = None) -> str:
    """The text that `inspect --config=... --topology=...` prints for one stage of a config (default: the last)."""
    config = config_lib.load_config(spec)
    config_lib.override(config, list(overrides), new=True)
    return describe(compile_config(config_lib.plain(config), topology, stage))


def compile_config(cfg: Mapping[str, Any], topology: str, name: str | None = None) -> Report:
    """Compile the step of a stage in a checked config, on the config's mesh over the topology's chips."""
    cfg = pipeline.check(cfg)
    name = name or cfg["stages"][-1]
    if name not in cfg["stages"]:
        raise UserError(f"--stage={name}: no such stage; the config's: {', '.join(cfg['stages'])}")
    mesh = mesh_lib.make_mesh(**cfg["mesh"], devices=devices(topology))
    dtype = "bfloat16" if cfg["compute_dtype"] == "auto" else cfg["compute_dtype"]
    stage, batch = preflight.abstract_stage(cfg | {"compute_dtype": dtype}, name)
    return compile_step(stage, cfg[name]["train"], mesh, batch, topology)


def devices(topology: str) -> list[Any]:
    """The devices of a topology ("v5e:16x16"), for compilation only; UserError if the compiler has none."""
    layout = chips.chip_of(topology).layout
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("--topology: needs the TPU compiler; pip install 'intern-jax[tpu]'")
    # There is no TPU whose metadata server could be asked.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # Compilation uses no chip, so another process on this machine may hold the chips, or compile too.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chip_config_name=layout
        ).devices
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
    arguments = programs.arguments(mesh, batch, stage.frozen)
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
    seconds, text = time.monotonic() - between, compiled.as_text()
    assert text is not None  # the TPU compiler gives it
    return dataclasses.replace(
        report, compile_seconds=seconds, memory=_memory(compiled), cost=hlo.cost(hlo.read(text))
    )


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
    """Why the compiler refused: "needs ... of ..." if memory is short, else the first line of its message."""
    short = _TOO_LARGE.search(str(error))
    if short:
        return f"needs {short[1]}B of {short[2]}B of HBM"
    return str(error).strip().splitlines()[0]


def describe(report: Report) -> str:
    """A report as text."""
    chip = chips.chip_of(report.topology)
    mesh = ", ".join(f"{axis} {size}" for axis, size in report.mesh.items())
    lines = [
        f"{report.name} on {report.topology}: mesh {mesh}; {report.images:,} images per step; "
        f"{report.parameters:,} parameters",
        f"lowered in {report.lower_seconds:.1f} s, compiled in {report.compile_seconds:.1f} s",
        "",
    ]
    if report.memory is None or report.cost is None:
        return "\n".join([*lines, f"does not fit: {report.refused}"])
    memory = _memory_lines(report.memory, chip, report.fits)
    return "\n".join([*lines, *memory, "", *_work_lines(report, report.cost)])


def _memory_lines(memory: Memory, chip: chips.Chip, fits: bool) -> list[str]:
    verdict = "fits" if fits else "does not fit"
    rows = [
        ("arguments", memory.arguments),
        ("temporaries", memory.temporaries),
        ("output", memory.output),
        ("of it aliased", memory.aliased),
        ("code", memory.code),
    ]
    lines = ["memory per device"]
    lines += [f"  {name:<14}{size / 2**30:>9.3f} GiB" for name, size in rows]
    size = chip.hbm_size / 2**30
    return [*lines, f"  {'peak':<14}{memory.peak / 2**30:>9.3f} GiB of {size:.0f}: {verdict}"]


def _work_lines(report: Report, cost: hlo.Cost) -> list[str]:
    time_ = report.roofline
    lines = ["per device and step"]
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
