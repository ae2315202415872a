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
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.core.layout import StageFiles
from intern_jax.models import zoo
from intern_jax.models.backbone import route
from intern_jax.models.heads import costs as costs_lib
from intern_jax.models.heads import readout
from intern_jax.pipeline import products
from intern_jax.train import checkpoint
from intern_jax.weights import folder, safetensors


def describe_model(name: str) -> str:
    """Stages, parameters, multiply-adds, activations, outputs and readouts of a zoo variant, or what a folder holds.

    A variant is described at the side of the pictures that it was made for, a folder's readouts at its canvas.
    """
    if os.path.isdir(name):
        return _described_folder(pathlib.Path(name))
    module = zoo.build({"name": name})
    side, branch = zoo.usual_side({"name": name}, module), _main(module)
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    init = functools.partial(module.init, train=False)
    variables = meta.unbox(jax.eval_shape(init, key, images))
    watched = _Watched(module, branch)
    first, *costs = costs_lib.of(
        watched, variables, side, branch, ["pooled", *costs_lib.choices(module)]
    )
    lines = [f"{name} at {side} x {side} pixels, without a head for a task"]
    lines += filter(None, [zoo.reconstructed({"name": name})])
    lines += ["", _parts(module, variables["params"]), *_branches(module)]
    lines += ["", f"parameters      {_count(variables['params']):,}"]
    lines += [
        f"multiply-adds   {first.multiply_adds / 1e9:.3f} G per picture, for the pooled features"
    ]
    lines += [
        f"activations     {watched.held / 1e6:.2f} MB per picture: the outputs of all blocks, in float32"
    ]
    shapes = [[name, _shape(shape[1:])] for name, shape in watched.shapes.items()]
    lines += ["", _columns([["output", "shape"], *shapes])]
    return "\n".join([*lines, "", _readouts(costs, side)])


class _Watched:
    """A network whose outputs and blocks' outputs are noted when one of its branches is traced.

    held    bytes of the outputs of all blocks
    shapes  {output: shape}
    """

    def __init__(self, module: Any, branch: str):
        self.module, self.branch = module, branch
        self.held, self.shapes = 0, dict[str, tuple[int, ...]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def apply(self, variables: Any, images: Any, train: bool, task: str) -> Mapping[str, Any]:
        """The network's outputs."""
        if task != self.branch:
            return self.module.apply(variables, images, train=train, task=task)
        kept = {"capture_intermediates": _is_block, "mutable": ["intermediates"]}
        out, blocks = self.module.apply(variables, images, train=train, task=task, **kept)
        self.held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(blocks))
        self.shapes = {name: leaf.shape for name, leaf in out.items()}
        return out


def _main(module: Any) -> str:
    """The branch that is described: that of classification, or a network's first."""
    try:
        return route(module, "cls")
    except UserError:
        return next(iter(readout.reached(module).values()))


def _branches(module: Any) -> list[str]:
    """The parts of the networks inside: of a generalist's branches, once where all of them are of one kind."""
    if not hasattr(module, "networks"):
        return []
    if not hasattr(module, "branches"):
        return ["", "the network inside", *map(_parts, module.networks())]
    tables: dict[str, list[str]] = {}
    for name, network in zip(module.branches, module.networks(), strict=True):
        tables.setdefault(_parts(network), []).append(name)
    lines = []
    for table, names in tables.items():
        several = "branch" if len(names) == 1 else "branches"
        lines += ["", f"{several} {', '.join(names)}", table]
    return lines


def _readouts(costs: Sequence[costs_lib.Cost], side: int) -> str:
    """What readouts cost per picture of `side` x `side` pixels, as a table."""
    rows = [["readout", "features", "parameters", "G multiply-adds"]]
    rows += [[one.readout, f"{one.features:,}", f"{one.parameters:,}", one.giga] for one in costs]
    head = f"readouts at {side} x {side} pixels, and what each needs per picture"
    return f"{head}\n\n{_columns(rows)}"


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
    values = [value for _, value in _flatten(settings)]
    lines += [zoo.reconstructed({"name": name}) for name in zoo.RECONSTRUCTED if name in values]
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
        return _model_folder(path)
    files = StageFiles(path)
    if files.model.exists():
        facts = [[name, json.dumps(value)] for name, value in products.read_done(files).items()]
        return f"{_columns(facts)}\n\n{_safetensors(files.model)}"
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name a checkpoint or a model folder")
    return _run_checkpoint(files.checkpoints if files.checkpoints.is_dir() else path)


def _described_folder(path: pathlib.Path) -> str:
    """The content of a model folder, and what readouts of its backbone cost."""
    if not (path / "model.json").exists():
        return describe_checkpoint(path)
    try:
        model = folder.load_model(path)
    except folder.NeedsCode:
        return _model_folder(path)
    module, side = model.build(), model.preprocess.canvas
    costs = costs_lib.of(module, model.variables, side, _main(module), costs_lib.choices(module))
    return f"{_model_folder(path)}\n\n{_readouts(costs, side)}"


def _model_folder(path: pathlib.Path) -> str:
    info = folder.read_info(path / "model.json")
    facts = [[name, json.dumps(value)] for name, value in info.items()]
    facts += [["note", note] for note in [zoo.reconstructed(info["backbone"])] if note]
    return f"{_columns(facts)}\n\n{_safetensors(path / 'weights.safetensors')}"


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
