"""What `inspect` prints: a model, a config or a checkpoint as text, without running any of them."""

from __future__ import annotations

import functools
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview
from flax.core import meta

from intern_jax import pipeline
from intern_jax.core import config as config_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.train import checkpoint
from intern_jax.weights import folder, safetensors

# A column a stage, a row a setting; the settings that every MetaNet's table has.
_TABLE = ("operators", "repeats", "channels", "expansions", "strides")
_SIZE = 224


def describe_model(name: str) -> str:
    """Stage table, parameters and output shapes of a zoo variant, or of a model folder."""
    if os.path.isdir(name):
        return describe_checkpoint(name)
    module = zoo.build({"name": name})
    images = jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), jnp.float32)
    init = functools.partial(module.init_with_output, train=False)
    key = jax.eval_shape(lambda: jax.random.key(0))
    out, variables = meta.unbox(jax.eval_shape(init, key, images))
    shapes = [[name, _shape(leaf.shape[1:])] for name, leaf in out.items()]
    parts = [
        f"{name}: outputs of a picture of {_SIZE} x {_SIZE}",
        _columns([["output", "shape"], *shapes]),
    ]
    branch = zoo.VARIANTS[name].get("branch")
    table = _stage_table(zoo.build(branch) if branch else module)
    parts[:0] = ["stages of each branch" if branch else "stages", table, ""]
    parameters = variables["params"]
    parts += ["", "parameters", _overview(parameters)]
    return "\n".join(parts)


def describe_config(spec: str, overrides: Sequence[str] = ()) -> str:
    """Every field of a config as `name = value`, after overrides and checks, and its stages."""
    config = config_lib.load_config(spec)
    config_lib.override(config, list(overrides))
    settings = config_lib.plain(config)
    pipeline.check(settings)
    lines = [f"{name} = {json.dumps(value)}" for name, value in _flatten(settings)]
    lines.append("")
    for stage in settings["stages"]:
        start = settings[stage].get("start") or ("nothing",)
        groups = ", ".join(settings[stage]["data"])
        lines.append(f"stage {stage}: starts from {', '.join(start)}; trains on {groups}")
    return "\n".join(lines)


def describe_checkpoint(path: str | os.PathLike[str]) -> str:
    """Names, shapes and facts of a model folder, a safetensors file or a run's checkpoint."""
    path = pathlib.Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        return _safetensors(path)
    if (path / "model.json").exists():
        info = dict(folder.load_model(path).info)
        facts = [[name, json.dumps(value)] for name, value in info.items()]
        return f"{_columns(facts)}\n\n{_safetensors(path / 'weights.safetensors')}"
    if (path / "model.safetensors").exists():
        done = json.loads((path / "done.json").read_text()) if (path / "done.json").exists() else {}
        facts = [[name, json.dumps(value)] for name, value in done.items()]
        return f"{_columns(facts)}\n\n{_safetensors(path / 'model.safetensors')}"
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name a checkpoint or a model folder")
    return _run_checkpoint(path / "checkpoints" if (path / "checkpoints").is_dir() else path)


def _safetensors(path: pathlib.Path) -> str:
    header = safetensors.read_header(path)
    notes = header.pop("__metadata__", {})
    rows = [[name, _shape(e["shape"]), e["dtype"]] for name, e in sorted(header.items())]
    total = sum(math.prod(entry["shape"]) for entry in header.values())
    lines = [_columns([["name", "shape", "dtype"], *rows]), "", f"{total:,} numbers"]
    return "\n".join(lines + [f"{name}: {value}" for name, value in notes.items()])


def _run_checkpoint(path: pathlib.Path) -> str:
    """The newest step below a checkpoint folder, or the step that `path` is: its JSON, which a restore verifies."""
    steps = sorted(int(p.name) for p in path.iterdir() if p.name.isdigit())
    step = path / str(steps[-1]) if steps else path
    try:
        meta = checkpoint.read_meta(step)
    except checkpoint.Damaged as fault:
        raise UserError(f"{step}: {fault}; name the folder that holds a run's steps") from None
    parts = [f"steps: {', '.join(map(str, steps))}; shown: {step.name}"] if steps else []
    parts += [f"{name} = {json.dumps(value)}" for name, value in _flatten(meta["run"])]
    for segment in meta["segments"]:
        parts.append(f"data segment: {json.dumps(segment)}")
    if meta["graft"]:
        parts.append(f"graft: {tree.GraftReport(**meta['graft']).summary()}")
    arrays = meta["arrays"]
    rows = [[name, _shape(shape), dtype, sum_] for name, (dtype, shape, sum_) in arrays.items()]
    table = _columns([["name", "shape", "dtype", "digest"], *rows])
    return "\n".join([*parts, "", f"{len(arrays)} arrays", table])


def _stage_table(module: Any) -> str:
    count = len(module.operators)
    rows = [[stage, *(getattr(module, field)[stage] for field in _TABLE)] for stage in range(count)]
    for level, stage in enumerate(module.outputs, start=1):
        rows[stage].append(f"layer{level}")
    return _columns([["stage", *_TABLE, "output"], *rows])


def _overview(parameters: Mapping[str, Any]) -> str:
    return parameter_overview.get_parameter_overview(parameters, include_stats=False)


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _columns(rows: list[list[Any]]) -> str:
    widths: list[int] = []
    for row in rows:
        for i, cell in enumerate(row):
            if i == len(widths):
                widths.append(0)
            widths[i] = max(widths[i], len(str(cell)))
    lines = ("  ".join(str(c).ljust(widths[i]) for i, c in enumerate(row)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
