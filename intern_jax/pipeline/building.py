"""From a stage's entry in a config to the stage: its constructor's arguments, and the rules that start its arrays."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from intern_jax import families
from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.data.batches.mixture import group_most_rows
from intern_jax.models import zoo
from intern_jax.train.evaluation import Evaluation
from intern_jax.train.stage import Stage, kind_of

# Arguments that a stage's constructor gets from the run, if it has such a parameter.
GIVEN = ("backbone", "classes", "teachers", "most_rows")
# Arguments that an evaluator's function or constructor gets from the run, if it has such a parameter.
MEASURED = ("stage", "mesh")


def build_stage(
    entry: Mapping[str, Any],
    spec: Mapping[str, Any],
    sources: Mapping[str, Any],
    specs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Stage:
    """The stage of a config's entry.

    `spec` is that of its backbone. `sources` are its opened sources by group, or {} if only its declarations matter.
    `specs` are the backbone specs of earlier stages, by name. The constructor gets the backbone's spec, the classes of
    each group's sources, how many rows they may have, and as `teachers` the backbone specs of its frozen roles.
    """
    bound = {role: name for role, name in (entry.get("start") or {}).items() if name}
    teachers = {role: dict(specs[name]) for role, name in bound.items()} if specs else {}
    # What a stage declares may follow from its groups, also where their sources are not open yet.
    classes = head_classes(sources) if sources else {group: [] for group in entry["data"]}
    given = {"backbone": spec, "classes": classes, "teachers": teachers}
    given["most_rows"] = most_rows(entry, sources)
    stage = _construct(entry["stage"], given)
    frozen = {role: spec for role, spec in teachers.items() if role in frozen_roles(stage)}
    # Only a stage that is made says which roles are frozen, so one that asks for teachers is made a second time.
    if frozen != teachers and given_to(config_lib.bind(entry["stage"]).func, ("teachers",)):
        stage = _construct(entry["stage"], given | {"teachers": frozen})
    stage.graft = rules(stage, entry.get("graft"))
    return stage


def given_to(function: Callable[..., Any], names: Iterable[str]) -> tuple[str, ...]:
    """The names in `names` that are parameters of the function."""
    known = config_lib.parameters(function)
    return tuple(name for name in names if name in known)


def _construct(spec: Mapping[str, Any], given: Mapping[str, Any]) -> Stage:
    make = config_lib.bind(spec)
    try:
        made = make(**{name: given[name] for name in given_to(make.func, given)})
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{spec['fn']}: {type(error).__name__}: {error}") from error
    if not isinstance(made, Stage):
        kind = type(made).__name__
        raise UserError(
            f"{spec['fn']}: gave {kind}; name a subclass of intern_jax.train.stage:Stage"
        )
    return made


def frozen_roles(stage: Stage) -> list[str]:
    """The roles whose arrays the stage reads and never changes."""
    return [role for role, declared in stage.roles.items() if declared.frozen]


def rules(stage: Stage, graft: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The config's added graft rules followed by the stage's own, or the config's replacement of them."""
    graft = graft or {}
    own = stage.graft if graft.get("replace") is None else graft["replace"]
    return [(regex, template) for regex, template in (*graft.get("add", ()), *own)]


def head_classes(sources: Mapping[str, Any]) -> dict[str, list[tuple[str, int]]]:
    """For each group, (source, number of classes) of its heads; 0 for a family whose answers are not classes."""
    return {
        group: [(s.name, _classes(s, f"data.{group} ({s.name})")) for s in opened]
        for group, opened in sources.items()
    }


def most_rows(
    entry: Mapping[str, Any], sources: Mapping[str, Any]
) -> dict[str, Callable[[int], Sequence[int]]]:
    """For each group, a function of the number of equal parts of a batch: the most rows of each source in a part."""
    return {
        group: functools.partial(
            group_most_rows, entry["data"][group], list(map(len, opened)), where=f"data.{group}"
        )
        for group, opened in sources.items()
    }


def _classes(source: Any, where: str) -> int:
    return len(source.classes) if families.find(source.family, f"{where}/family").classes else 0


def evaluations(
    entry: Mapping[str, Any], stage: Stage, mesh: jax.sharding.Mesh
) -> list[Evaluation]:
    """The evaluations of an entry: each calls a function, or an object of a class, with the model's variables.

    A function or constructor gets the stage, the mesh and, where it names no other, the tokenizer of the stage's texts,
    if it has such a parameter.
    """
    made = []
    for name, settings in entry["evaluators"].items():
        spec = {field: v for field, v in settings.items() if field not in ("every", "where")}
        run = config_lib.bind(spec)
        offered = {"stage": stage, "mesh": mesh}
        if spec.get("tokenizer") is None and (tokenizer := _tokenizer(entry)):
            offered["tokenizer"] = tokenizer
        offered = {part: offered[part] for part in given_to(run.func, offered)}
        if inspect.isclass(run.func):
            made.append(Evaluation(name, run(**offered), settings["every"], settings["where"]))
        else:
            bound = functools.partial(run, **offered)
            made.append(Evaluation(name, bound, settings["every"], settings["where"]))
    return made


def _tokenizer(entry: Mapping[str, Any]) -> str | None:
    """The tokenizer of a stage's texts."""
    for group in entry["data"].values():
        transform = group["transform"]
        made = inspect.signature(config_lib.resolve(transform["fn"])).parameters
        if "tokenizer" in made:
            return transform.get("tokenizer", made["tokenizer"].default)
    return None


def in_dtype(spec: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A backbone spec with this compute dtype; "auto" is bfloat16 on accelerators and float32 on CPU.

    Parameters, statistics, softmax and losses stay float32. A spec that has its own dtype keeps it.
    """
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return dict(spec) if dtype == "float32" else zoo.in_dtype(spec, dtype)


def spec_of(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The spec of a stage's backbone, with the compute dtype of the checked config."""
    return in_dtype(settings[name]["backbone"], settings["compute_dtype"])


def group_of(groups: Iterable[str], *kinds: str) -> str | None:
    """The first group of the first of these kinds that has a group; None if none has."""
    groups = list(groups)
    return next((g for kind in kinds for g in groups if kind_of(g) == kind), None)
