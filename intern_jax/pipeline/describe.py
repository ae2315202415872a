"""The texts of `inspect`: they describe a model, a config or a checkpoint without running it."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview
from flax.core import meta

from intern_jax import pipeline
from intern_jax.core import config as config_lib
from intern_jax.core import macs, tree
from intern_jax.core.config import UserError
from intern_jax.core.layout import StageFiles
from intern_jax.models import zoo
from intern_jax.train import checkpoint
from intern_jax.weights import folder, safetensors

# A model is described at this side of the images, and with this branch if it has two.
_SIZE, _TASK = 224, "cls"


def describe_model(name: str) -> str:
    """Stages, parameters, multiply-adds, activations and outputs of a zoo variant, or the facts of a model folder."""
    if os.path.isdir(name):
        return describe_checkpoint(name)
    module = zoo.build({"name": name})
    images = jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    init = functools.partial(module.init, train=False)
    variables = meta.unbox(jax.eval_shape(init, key, images))

    def forward(variables: Any, images: jax.Array) -> tuple[jax.Array, dict, Any]:
        kept = {"capture_intermediates": _is_block, "mutable": ["intermediates"]}
        out, blocks = module.apply(variables, images, train=False, task=_TASK, **kept)
        return out["pooled"], out, blocks

    jaxpr, (_, out, blocks) = jax.make_jaxpr(forward, return_shape=True)(variables, images)
    total, cost = _count(variables["params"]), macs.multiply_adds(jaxpr, results=1)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(blocks))
    lines = [f"{name} at {_SIZE} x {_SIZE} pixels, without a head for a task"]
    lines += ["", _parts(module, variables["params"])]
    field, inside = zoo.specs_inside({"name": name})
    for spec in inside.values():
        place = "each branch" if field == "branch" else "inside"
        lines += ["", f"{place}, {spec['name']}", _parts(zoo.build(spec))]
    lines += ["", f"parameters      {total:,}"]
    lines += [f"multiply-adds   {cost / 1e9:.3f} G per picture, for the pooled features"]
    lines += [
        f"activations     {held / 1e6:.2f} MB per picture: the outputs of all blocks, in float32"
    ]
    shapes = [[name, _shape(leaf.shape[1:])] for name, leaf in out.items()]
    return "\n".join([*lines, "", _columns([["output", "shape"], *shapes])])


def _is_block(module: Any, method: str) -> bool:
    last = module.path[-1] if module.path else ""
    return method == "__call__" and re.fullmatch(r"(blocks|layer\d)_\d+", last) is not None


def _parts(module: Any, parameters: Mapping[str, Any] | None = None) -> str:
    """One line per part of a network, with the number of its parameters among `parameters`."""
    parts = module.parts()
    fullest = max(parts, key=lambda part: len(part.facts))
    columns = list(dict.fromkeys(fact for part in (fullest, *parts) for fact in part.facts))
    rows = [["part", *columns] + ["parameters"] * (parameters is not None)]
    for part in parts:
        rows.append([part.name, *(part.facts.get(column, "") for column in columns)])
        if parameters is not None:
            rows[-1].append(f"{_count({name: parameters[name] for name in part.modules}):,}")
    return _columns(rows)


def _count(parameters: Mapping[str, Any]) -> int:
    return int(parameter_overview.count_parameters(parameters))


def describe_config(spec: str, overrides: Sequence[str] = ()) -> str:
    """Every field of a checked config, with its defaults, as `name = value`, and its stages."""
    config = config_lib.load_config(spec)
    config_lib.override(config, list(overrides), new=True)
    settings = pipeline.check(config)
    lines = [f"{name} = {json.dumps(value)}" for name, value in _flatten(settings)]
    lines.append("")
    for stage in settings["stages"]:
        start = [f"{n} as {role}" for role, n in settings[stage]["start"].items() if n]
        groups = ", ".join(settings[stage]["data"])
        begins = ", ".join(start) or "random weights"
        lines.append(f"stage {stage}: starts from {begins}; trains on {groups}")
    return "\n".join(lines)


def describe_checkpoint(path: str | os.PathLike[str]) -> str:
    """The names, shapes and facts of a model folder, a safetensors file or a run's checkpoint."""
    path = pathlib.Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        return _safetensors(path)
    if (path / "model.json").exists():
        # The content can be described without the code of its author.
        with contextlib.suppress(folder.NeedsCode):
            folder.load_model(path)
        info = folder.read_info(path / "model.json")
        facts = [[name, json.dumps(value)] for name, value in info.items()]
        return f"{_columns(facts)}\n\n{_safetensors(path / 'weights.safetensors')}"
    files = StageFiles(path)
    if files.model.exists():
        done = json.loads(files.done.read_text("utf-8")) if files.done.exists() else {}
        facts = [[name, json.dumps(value)] for name, value in done.items()]
        return f"{_columns(facts)}\n\n{_safetensors(files.model)}"
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name a checkpoint or a model folder")
    return _run_checkpoint(files.checkpoints if files.checkpoints.is_dir() else path)


def _safetensors(path: pathlib.Path) -> str:
    header = safetensors.read_header(path)
    notes = header.pop("__metadata__", {})
    rows = [[name, _shape(e["shape"]), e["dtype"]] for name, e in sorted(header.items())]
    total = sum(math.prod(entry["shape"]) for entry in header.values())
    lines = [_columns([["name", "shape", "dtype"], *rows]), "", f"{total:,} numbers"]
    return "\n".join(lines + [f"{name}: {value}" for name, value in notes.items()])


def _run_checkpoint(path: pathlib.Path) -> str:
    """The JSON of the newest step below a checkpoint folder, or of the step folder `path`; its digest is checked."""
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
