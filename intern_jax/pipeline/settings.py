"""A run's whole config as typed settings: it checks each part, and the references between the parts."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic

from intern_jax import families
from intern_jax.benchmark.heads import check_readouts
from intern_jax.benchmark.settings import Benchmark, none_if_empty
from intern_jax.core import config as config_lib
from intern_jax.core import schema
from intern_jax.core.config import UserError
from intern_jax.core.schema import Function, Settings, field, wrong
from intern_jax.data.batches.settings import Group
from intern_jax.models import zoo
from intern_jax.pipeline import building
from intern_jax.train.settings import PeakOptim, Train
from intern_jax.train.stage import Stage, kind_of
from intern_jax.train.step import check_accumulation


class Mesh(Settings):
    """The sizes of the mesh axes. One may be -1 and takes the remaining devices."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    @pydantic.model_validator(mode="after")
    def _sizes(self) -> "Mesh":
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        for axis, size in sizes.items():
            if size < 1 and size != -1:
                raise wrong(f"{size}; write a whole number of at least 1, or -1 for the rest", axis)
        if list(sizes.values()).count(-1) > 1:
            raise wrong("-1 in several axes; only one can take the remaining devices")
        return self


class StageSpec(Function):
    """A stage: its class, with the arguments that do not come from the run."""

    @classmethod
    def called_with(cls, function: Any) -> tuple[int, tuple[str, ...]]:
        """The arguments that the constructor gets from the run."""
        return 0, building.given_to(function, building.GIVEN)


class Evaluator(Function):
    """An evaluator, which measures a stage while it trains: every `every` steps, on process 0 ("main") or on all."""

    every: int = field(ge=1, say="steps between two evaluations, at least 1")
    where: Literal["main", "all"] = "main"

    @classmethod
    def called_with(cls, function: Any) -> tuple[int, tuple[str, ...]]:
        """A function is called with the model's variables; a class is made without them."""
        variables = 0 if isinstance(function, type) else 1
        return variables, building.given_to(function, building.MEASURED)


class Graft(Settings):
    """Graft rules [regex over names, ROLE/COLLECTION/NAME] that are added before the stage's own, or replace them."""

    add: list[list[str]] = field([])
    replace: list[list[str]] | None = None

    @pydantic.field_validator("add", "replace")
    @classmethod
    def _rules(cls, given: list[list[str]] | None) -> list[list[str]] | None:
        for position, rule in enumerate(given or ()):
            if len(rule) != 2 or "/" not in rule[1]:
                raise wrong(f"{rule!r}; write [regex, 'ROLE/COLLECTION/NAME']", position)
            schema.regex(rule[0], position)
            try:
                re.sub(rule[0], rule[1], "")
            except re.error as error:
                raise wrong(f"{rule[1]!r}: {error}; name a group of the regex", position) from None
        return given

    @pydantic.model_validator(mode="after")
    def _one(self) -> "Graft":
        if self.add and self.replace is not None:
            raise wrong("add and replace exclude each other; give one of them")
        return self


class StageTrain(Train):
    """The settings of a stage's loop, which must be complete; the seed is the run's."""

    steps: int = field(ge=0, say="a whole number, 0 for none")
    optim: PeakOptim = field(say="a group of fields with learning_rate")
    seed: int = field(0, matters=False, exclude=True)

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The fields, without a seed, which is refused here."""
        if "seed" in given:
            raise wrong("no such field in a run; set config.seeds", "seed")
        return given


class Entry(Settings):
    """The entry of a stage of the chain."""

    stage: StageSpec = field(say="{fn: package.module:Class, ...}")
    backbone: dict[str, Any] | None = field(None, matters=False)  # its spec is a part of the key
    # The names of the stages do not matter, because the key covers the keys of the stages.
    start: dict[str, str | None] | None = field(None, matters=False, say="{role: earlier stage}")
    graft: Annotated[Graft | None, pydantic.BeforeValidator(none_if_empty)] = None
    data: dict[str, Group] = field(min_length=1, say="at least one group of rows")
    train: StageTrain = field(say="a group of fields with steps and optim")
    evaluators: dict[str, Evaluator] = field({}, matters=False)


# The seeds that both numpy's and JAX's generators accept.
Seed = Annotated[int, pydantic.Field(ge=0, le=2**32 - 1)]


class Run(Settings):
    """The fields of a config beside the entries of its stages."""

    families: list[str] = field([], say="dotted names of families, package.module:FAMILY")
    seeds: list[Seed] = field([0], min_length=1, say="a list of whole numbers from 0")
    mesh: Mesh = Mesh()
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: int = field(0, ge=0, say="a whole number, 0 for threads")
    backbone: dict[str, Any] = field(say="{name: a network of models/zoo.py}, or {fn: code}")
    stages: list[Annotated[str, pydantic.Field(pattern=r"^[A-Za-z_][\w-]*$")]] = field(
        say="a list of names, of letters, digits, _ and -"
    )
    benchmark: Annotated[Benchmark | None, pydantic.BeforeValidator(none_if_empty)] = None

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Make the families known before the fields that may name them are read."""
        families.add_of_config(given)
        return given

    @pydantic.model_validator(mode="after")
    def _something_to_do(self) -> "Run":
        if not self.stages and self.benchmark is None:
            raise wrong("empty; name a stage, or write a benchmark, which needs none", "stages")
        return self

    @pydantic.field_validator("seeds", "stages")
    @classmethod
    def _once(cls, given: list[Any]) -> list[Any]:
        for position, value in enumerate(given):
            if value in given[:position]:
                raise wrong(f"{value!r} stands twice; name it once", position)
        return given


# --- the config -----------------------------------------------------------------------------------


def check(config: Any) -> dict[str, Any]:
    """A run's config as plain values with all defaults filled in; a mistake is a UserError of one line.

    No data is opened. An entry of a stage that is not listed in `stages` is left out.
    """
    given = config_lib.plain(config)
    fields = list(Run.model_fields)
    listed = given.get("stages")
    listed = [n for n in listed if isinstance(n, str)] if isinstance(listed, list) else []
    described = [n for n, value in given.items() if isinstance(value, dict) and "stage" in value]
    for name in given:
        if name not in (*fields, *listed, *described):
            near = config_lib.did_you_mean(
                name, list(dict.fromkeys([*fields, *listed, *described]))
            )
            raise UserError(f"config.{name}: no such field; {near}")
    run = schema.read(Run, {n: v for n, v in given.items() if n in fields}, "config")
    _check_backbone(run.backbone, "config.backbone")
    settings = {n: v for n, v in run.model_dump().items() if n != "benchmark"}
    for position, name in enumerate(run.stages):
        settings[name] = _checked_entry(name, given, run, settings, run.stages[:position])
    settings["benchmark"] = None if run.benchmark is None else run.benchmark.model_dump()
    if run.benchmark is not None:
        _check_benchmark(run.benchmark, settings)
    return settings


def _checked_entry(
    name: str,
    given: Mapping[str, Any],
    run: Run,
    settings: Mapping[str, Any],
    earlier: Sequence[str],
) -> dict[str, Any]:
    """A stage's entry with its defaults, its backbone, and every role of `start` written out."""
    where = f"config.{name}"
    if name in Run.model_fields:
        raise UserError(f"config.stages: a stage cannot be called '{name}'; that is a field")
    if name not in given:
        raise UserError(f"{where}: stage '{name}' is listed in config.stages, not described")
    read = schema.read(Entry, given[name], where)
    backbone = run.backbone if read.backbone is None else read.backbone
    _check_backbone(backbone, f"{where}.backbone")
    _check_earlier(read.start or {}, earlier, run.stages, f"{where}.start")
    entry = read.model_dump() | {"backbone": dict(backbone), "start": read.start or {}}
    specs = {n: building.in_dtype(settings[n]["backbone"], run.compute_dtype) for n in earlier}
    try:
        stage = building.build_stage(entry, backbone, {}, specs)
    except UserError as error:
        raise UserError(f"{where}.stage: {error}") from error
    stage.name = name
    try:
        check_accumulation(stage, read.train.accumulate)
    except UserError as error:
        raise UserError(f"{where}.{error}") from None
    for group in read.data:
        if kind_of(group) not in stage.kinds:
            known = ", ".join(stage.kinds)
            raise UserError(
                f"{where}.data.{group}: {read.stage.fn} reads no such kind; name a group KIND or "
                f"KIND_SUFFIX, KIND one of: {known}"
            )
    try:
        stage.check_data(entry["data"])
    except UserError as error:
        raise UserError(f"{where}.{error}") from None
    try:
        data = {role: settings[one]["data"] for role, one in (read.start or {}).items() if one}
        stage.check_roles({**data, "": entry["data"]})
    except UserError as error:
        raise UserError(f"{where}.{error}") from None
    written = "start" in given[name]
    entry["start"] = _checked_start(entry["start"], written, read.graft, stage, where)
    return entry


def _check_backbone(spec: Mapping[str, Any], where: str) -> None:
    try:
        zoo.from_config(spec)
    except Exception as error:
        if not isinstance(error, UserError):
            # Values of a wrong type may make a network fail with any exception.
            raise UserError(f"{where}: cannot be built of {spec} ({error})") from error
        place, colon, text = str(error).partition(": ")
        # The zoo's message begins with "backbone.FIELD: ..."; here the stage is added.
        inside = place.removeprefix("backbone") if place.startswith("backbone") else f": {place}"
        raise UserError(f"{where}{inside}{colon}{text}") from None


def _check_earlier(
    start: Mapping[str, str | None], earlier: Sequence[str], stages: Sequence[str], where: str
) -> None:
    for role, name in start.items():
        if name is None or name in earlier:
            continue
        if name in stages:
            raise UserError(f"{where}.{role}: '{name}' is not an earlier stage of config.stages")
        near = config_lib.did_you_mean(name, list(earlier))
        raise UserError(f"{where}.{role}: no earlier stage '{name}'; {near}")


def _checked_start(
    start: Mapping[str, str | None],
    written: bool,
    graft: Graft | None,
    stage: Stage,
    where: str,
) -> dict[str, str | None]:
    """`start` with all roles of the stage; UserError for roles that are unknown, left out or not bound."""
    added = graft.add if graft else []
    replaced = (graft.replace or []) if graft else []
    # A role that comes from a group of the regex is known only when the regex matches.
    templates = [template for _, template in (*added, *replaced) if template[0] != "\\"]
    named = {template.partition("/")[0]: template for template in templates}
    named = {role: template for role, template in named.items() if role not in stage.blends}
    roles = list(dict.fromkeys([*stage.roles, *named]))
    for role in start:
        if role not in roles:
            near = config_lib.did_you_mean(role, roles)
            raise UserError(f"{where}.start.{role}: the stage has no such role; {near}")
    for role, template in named.items():
        if not start.get(role):
            raise UserError(
                f"{where}.graft: '{template}' names the role '{role}', which config's start binds to no "
                "stage; bind it or correct the rule"
            )
    if stage.roles and not written:
        raise UserError(
            f"{where}.start: missing; bind {', '.join(stage.roles)} to earlier stages, "
            "or write None to start from random weights"
        )
    for role, declared in stage.roles.items():
        if declared.frozen and not start.get(role):
            raise UserError(
                f"{where}.start.{role}: the stage reads it while it trains; bind it to an earlier stage"
            )
        if role in stage.blended and not start.get(role):
            raise UserError(
                f"{where}.start.{role}: the stage starts from a sum with it; bind it to an earlier stage"
            )
        if start and role not in start:
            raise UserError(
                f"{where}.start.{role}: missing; bind it to an earlier stage, or write None"
            )
    return {role: start.get(role) for role in roles}


def _check_benchmark(benchmark: Benchmark, settings: Mapping[str, Any]) -> None:
    where, stages = "config.benchmark", settings["stages"]
    if stages and not benchmark.ladder:
        raise UserError(f"{where}.ladder: empty; write {{rung: {{cls, dense or family: stage}}}}")
    if benchmark.scratch and benchmark.scratch.generalist:
        _check_backbone(benchmark.scratch.generalist, f"{where}.scratch.generalist")
    for rung, by_task in benchmark.ladder.items():
        for task, stage in by_task.items():
            if stage not in stages:
                near = config_lib.did_you_mean(stage, stages)
                raise UserError(f"{where}.ladder.{rung}.{task}: no stage '{stage}'; {near}")
    _check_readouts(benchmark, settings)
    zero_shot = benchmark.zero_shot
    if zero_shot is None:
        return
    if zero_shot.stage not in stages:
        near = config_lib.did_you_mean(zero_shot.stage, stages)
        raise UserError(f"{where}.zero_shot.stage: no stage '{zero_shot.stage}'; {near}")
    groups = settings[zero_shot.stage]["data"]
    group = building.group_of(groups, "pairs")
    if group is None or not {"size", "context"} <= set(groups[group]["transform"]):
        raise UserError(
            f"{where}.zero_shot.stage: '{zero_shot.stage}' learns from no texts; name a stage with a "
            "group of pairs, whose transform has size and context"
        )


def _check_readouts(benchmark: Benchmark, settings: Mapping[str, Any]) -> None:
    """Refuse readouts of branches that the networks of a ladder lack."""
    for row in benchmark.found():
        stages = [row.backbone(by_task) for by_task in benchmark.ladder.values()]
        for spec in (settings["backbone"], *(settings[stage]["backbone"] for stage in stages)):
            build = functools.partial(zoo.from_config, spec)
            check_readouts(row, benchmark.heads, build, "config.benchmark.heads")


def matter(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a checked entry that change the stage's arrays, beside its backbone and its start."""
    return schema.mattering(schema.read(Entry, entry, "config"))
