"""Settings of the benchmark: rows, label fractions, heads, budgets; of a run's section, and of configs as gvb.py."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from intern_jax import families
from intern_jax.adapt import probe
from intern_jax.adapt.fit import WEIGHT_DECAY
from intern_jax.benchmark import heads as heads_lib
from intern_jax.benchmark.rows import suite
from intern_jax.benchmark.rows.row import Row
from intern_jax.core import config as config_lib
from intern_jax.core import schema
from intern_jax.core.config import UserError
from intern_jax.core.schema import Settings, field, wrong
from intern_jax.data.batches.settings import Transform
from intern_jax.families.family import BRANCHES
from intern_jax.metrics import table as metrics
from intern_jax.models.heads import readout
from intern_jax.tasks import prompts
from intern_jax.tasks import task as tasks
from intern_jax.train.settings import PeakOptim


def _fraction(value: float) -> float:
    if not 0 < value <= 1:
        raise wrong(f"fraction {value} is outside (0, 1]")
    return value


Fraction = Annotated[float, pydantic.AfterValidator(_fraction)]


def _readout(value: str) -> str:
    try:
        readout.parse(value)
    except UserError as error:
        raise wrong(str(error)) from None
    return value


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


Rate = Annotated[float, pydantic.Field(gt=0.0)]
Steps = Annotated[int, pydantic.Field(ge=1)]
Readout = Annotated[str, pydantic.AfterValidator(_readout)]
Decay = Annotated[float, pydantic.Field(ge=0.0)]
# "" and {} turn off what None does: a command line cannot set a text to None where a config has one.
Path = Annotated[str | None, pydantic.BeforeValidator(lambda value: value or None)]


def none_if_empty(value: Any) -> Any:
    return None if value == {} else value


# --- heads ----------------------------------------------------------------------------------------


class Lbfgs(Settings):
    """Logistic regression (adapt/probe.py)."""

    l2: list[Rate] = field(list(probe.GRID), min_length=1, say="a list of numbers above 0")
    readout: Readout = probe.READOUT


class Sgd(Settings):
    """The published linear probe (adapt/sweep.py)."""

    steps: int = field(10_000, ge=1)
    batch_size: int = field(512, ge=1)
    readout: Readout = "pooled"


class Knn(Settings):
    """Nearest neighbours (adapt/knn.py)."""

    k: int = field(20, ge=1)
    temperature: float = field(0.07, gt=0.0)
    readout: Readout = "pooled"


class Cached(Settings):
    """A family's decoder on cached outputs of the backbone (adapt/head.py).

    Of several `steps`, and of `flips` (whether mirror images are seen too), a fifth of the labels chooses: flips at
    the fewest steps, then more steps while the score rises. `settings`: the decoder's fields.
    """

    steps: Annotated[list[Steps], pydantic.BeforeValidator(_one_or_more)] = field(
        min_length=1, say="whole numbers of at least 1"
    )
    flips: list[bool] = field([False], min_length=1)
    batch_size: int = field(ge=1, say="a whole number of at least 1")
    learning_rate: float = field(gt=0.0, say="a number above 0")
    settings: dict[str, Any] = field({}, late=True)


class DenseFit(Settings):
    """The budget of a head on augmented pictures (adapt/head.py)."""

    steps: int = field(ge=1, say="a whole number of at least 1")
    batch_size: int = field(ge=1, say="a whole number of at least 1")
    optim: PeakOptim
    accumulate: int = field(1, ge=1)
    threads: int = field(2, ge=1)
    log_every: int | None = field(None, ge=1)
    checkpoint_every: int | None = field(None, ge=1)


class OnPictures(Settings):
    """A decoder with augmentation; its `settings` are the fields of models/heads' module."""

    settings: dict[str, Any] = field({})
    transform: Transform
    cfg: DenseFit


PROBES: dict[str, type[Settings]] = {"lbfgs": Lbfgs, "sgd": Sgd, "knn": Knn}


def _read_heads(given: Any) -> dict[str, dict[str, Any]]:
    """{family or row: {head: settings}} with each head's defaults."""
    if not isinstance(given, Mapping):
        raise wrong(f"{given!r}; write {{family or row: {{head: settings}}}}")
    made: dict[str, dict[str, Any]] = {}
    for place, by_head in given.items():
        family, place = _placed(place)
        if not isinstance(by_head, Mapping):
            raise wrong(f"{by_head!r}; write {{head: settings}}", place)
        made[place] = {}
        for head, settings in by_head.items():
            known = heads_lib.of_family(family)
            if head not in known:
                known_text = ", ".join(known) or "none"
                raise wrong(f"no head '{head}' for {place}; use {known_text}", place)
            made[place][head] = _read_head(family, head, settings, (place, head))
    return made


def _placed(place: str) -> tuple[str, str]:
    """(family, key) of a place in `heads`: a family, or a row by its name or dotted name."""
    if place in families.names():
        return place, place
    if place not in suite.ROWS and ":" not in place:
        schema.one_of(place, [*families.names(), *suite.ROWS], "family or row")
    try:
        row = suite.find(place)
    except UserError as error:
        raise wrong(str(error), place) from None
    return row.family, row.name


def _read_head(family: str, head: str, given: Any, path: tuple[str, ...]) -> dict[str, Any]:
    if head in PROBES:
        return schema.nested(PROBES[head], given, path)
    task, name = tasks.find(family), "" if head == heads_lib.USUAL else head
    on_pictures = task.recipe(name).on_pictures or (isinstance(given, Mapping) and "cfg" in given)
    settings = schema.nested(OnPictures if on_pictures else Cached, given, path)
    try:
        task.check_head(name, settings.get("settings", {}))
    except UserError as error:
        raise wrong(str(error), *path) from None
    return settings


# --- trained backbones ----------------------------------------------------------------------------


class Budget(Settings):
    """How a network is trained, by family: `views` of pictures at all labels, in batches of `batch_size`.

    `augment` changes the training transform: {"classification": {"color": 0.0}} trains without jitter of colours.
    """

    fractions: list[Fraction] = field([])
    views: dict[str, int] = field(say="{family: pictures seen}")
    batch_size: dict[str, int] = field(say="{family: rows}")
    augment: dict[str, dict[str, Any]] = field({}, say="{family: fields of its training transform}")

    @pydantic.field_validator("augment")
    @classmethod
    def _of_transform(cls, given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, changes in given.items():
            schema.one_of(name, families.names(), "family", name)
            view = families.find(name).view(1, train=True, flip=True)
            for own in view.keys() & changes.keys():
                raise wrong("not to be written here; the row says it", name, own)
            try:
                config_lib.bind(view | changes)
            except UserError as error:
                raise wrong(str(error), name) from None
        return given

    @pydantic.field_validator("views", "batch_size")
    @classmethod
    def _by_family(cls, given: dict[str, int]) -> dict[str, int]:
        for family, number in given.items():
            if family not in families.names():
                raise wrong(f"no such family; known: {', '.join(families.names())}", family)
            if number < 1:
                raise wrong(f"{number}; write a whole number of at least 1", family)
        return given


class Scratch(Budget):
    """Networks from random weights, with settings chosen by held-out labels at each fraction (choice.py).

    lengths     factors of `views`
    longest     the limit of a length: while the longest is the best, one four times as long is tried; None: no longer
                than `lengths`
    networks    "branch": the ladder's lowest rung; "generalist": the network of the highest rung, or of that spec
    """

    fractions: list[Fraction] = field(min_length=1, say="at least one fraction")
    learning_rates: list[Rate] = field(min_length=1, say="at least one rate")
    weight_decays: list[Decay] = field(
        [WEIGHT_DECAY], min_length=1, say="a list of numbers of at least 0"
    )
    lengths: list[Rate] = field([1.0], min_length=1, say="a list of factors above 0")
    longest: float | None = field(None, gt=0.0, say="a factor above 0, or None")
    networks: list[Literal["branch", "generalist"]] = field(
        ["branch"], min_length=1, say="branch, generalist or both"
    )
    generalist: Annotated[dict[str, Any] | None, pydantic.BeforeValidator(none_if_empty)] = None

    @property
    def lacks_a_network(self) -> bool:
        """Whether the generalist's network has to come from the ladder."""
        return "generalist" in self.networks and self.generalist is None

    @pydantic.model_validator(mode="after")
    def _within_limit(self) -> "Scratch":
        most = max(self.lengths)
        if self.longest is not None and self.longest < most:
            raise wrong(
                f"{self.longest:g}; write at least the longest of lengths, {most:g}", "longest"
            )
        return self


class FineTune(Budget):
    """A rung's backbone, trained with its head."""

    rung: str = field(say="a rung of the ladder")
    learning_rate: float = field(gt=0.0, say="a number above 0")


def _check_metric(row: Row) -> None:
    """Refuse a row whose metric is none of its family's."""
    family = row.task_family
    known = [metrics.find(name, f"family {family.name}").name for name in family.metrics]
    if metrics.find(row.metric, f"{row.name}.metric").name not in known:
        raise UserError(
            f"{row.name}.metric: {row.metric!r} is none of {family.name}'s: {', '.join(known)}"
        )


# --- the whole ------------------------------------------------------------------------------------


class Scores(Settings):
    """What both kinds of benchmark have: which rows, labels and heads."""

    rows: list[str]
    fractions: list[Fraction] = field(min_length=1, say="at least one fraction")
    draws: int = field(1, ge=1)
    heads: Annotated[dict[str, dict[str, Any]], pydantic.BeforeValidator(_read_heads)]
    validation: bool = False
    data: Path = None  # the folder of GV-B's data sets
    lists: Path = None  # of list files: read where they are, else written
    features: Path = None  # that keeps frozen features
    batch_size: int = field(
        128, ge=1
    )  # pictures in one pass of a frozen backbone; changes no result

    FILES: ClassVar[bool] = False  # whether rows of boxes may be scored from files alone

    @pydantic.field_validator("rows")
    @classmethod
    def _rows(cls, given: list[str]) -> list[str]:
        for position, name in enumerate(given):
            if name not in suite.ROWS and ":" not in name:
                schema.one_of(name, sorted(suite.ROWS), "row", position)
            try:
                _check_metric(suite.find(name))
            except UserError as error:
                raise wrong(str(error), position) from None
        return given

    @pydantic.model_validator(mode="after")
    def _each_row_has_a_head(self) -> "Scores":
        for row in self.found():
            own = row.task_family
            needed = own.task and not (self.FILES and own.answer == "boxes")
            if needed and not heads_lib.of_row(row, self.heads):
                raise wrong(f"none for row {row.name}; add {row.family} or {row.name}", "heads")
        return self

    def found(self) -> list[Row]:
        """The rows by name."""
        return [suite.find(name) for name in self.rows]


class ZeroShot(Settings):
    """Pictures of a row named by a stage that learnt from texts."""

    stage: str = field(say="a stage that trains on pairs")
    row: str = field(say="a row of classification")
    templates: str | list[str] = "name"

    @pydantic.field_validator("templates")
    @classmethod
    def _templates(cls, given: str | list[str]) -> str | list[str]:
        try:
            prompts.templates(given)
        except UserError as error:
            raise wrong(str(error).partition(": ")[2]) from None
        return given

    @pydantic.field_validator("row")
    @classmethod
    def _classes(cls, given: str) -> str:
        known = [row.name for row in suite.ROWS.values() if row.task_family.answer == "label"]
        schema.one_of(given, known, "row of classification")
        return given


class Benchmark(Scores):
    """The benchmark of a run: the rungs of its ladder are its stages."""

    rows: list[str] = field(min_length=1, say="at least one row")
    ladder: dict[str, dict[str, str]] = field({}, say="{rung: {cls, dense or family: stage}}")
    # From low to high; empty: as the ladder has them, and a ConfigDict has names in the order of the alphabet.
    rungs: list[str] = field([], late=True, say="the names of the ladder's rungs, from low to high")
    scratch: Annotated[Scratch | None, pydantic.BeforeValidator(none_if_empty)] = None
    finetune: Annotated[FineTune | None, pydantic.BeforeValidator(none_if_empty)] = None
    zero_shot: Annotated[ZeroShot | None, pydantic.BeforeValidator(none_if_empty)] = None
    # Rows that are scored though a stage's data was not compared with their test pictures.
    contaminated: list[str] = field([])

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The fields, with the ladder in the order of its rungs."""
        rungs, ladder = given.get("rungs") or (), given.get("ladder")
        if isinstance(ladder, dict) and sorted(map(str, rungs)) == sorted(ladder):
            given["ladder"] = {name: ladder[name] for name in rungs}
        return given

    @pydantic.field_validator("ladder")
    @classmethod
    def _rungs(cls, given: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for rung, by_task in given.items():
            if rung == "random":
                raise wrong("the lowest rung, which is always there; name it otherwise", rung)
            for branch in by_task:
                known = (*BRANCHES, *families.names())
                if branch not in known:
                    raise wrong(f"no such task; known: {', '.join(known)}", rung, branch)
        return given

    @pydantic.model_validator(mode="after")
    def _whole(self) -> "Benchmark":
        if self.rungs and self.ladder and sorted(self.rungs) != sorted(self.ladder):
            said = f"{', '.join(self.rungs)}; name each rung of the ladder once: "
            raise wrong(said + ", ".join(self.ladder), "rungs")
        rungs = ["random", *self.ladder]
        if self.finetune:
            schema.one_of(self.finetune.rung, rungs, "rung", "finetune", "rung")
        if self.scratch and self.scratch.lacks_a_network and not self.ladder:
            said = "missing; write the network's spec, since the ladder has no rung"
            raise wrong(said, "scratch", "generalist")
        for row in self.found():
            if not row.task_family.task:
                raise wrong(f"no model of {row.family} is trained here (row {row.name})", "rows")
            for rung, by_task in self.ladder.items():
                if row.branch not in by_task and row.family not in by_task:
                    raise wrong(f"missing; row {row.name} needs it", "ladder", rung, row.branch)
            for part in ("scratch", "finetune"):
                self._check_budget(part, row)
        return self

    def _check_budget(self, part: str, row: Row) -> None:
        budget = getattr(self, part)
        if budget is None or not budget.fractions:
            return
        for name in ("views", "batch_size"):
            if row.family not in getattr(budget, name):
                raise wrong(f"missing; row {row.name} needs it", part, name, row.family)


class Gvb(Scores):
    """A benchmark of one backbone; no rows: every data set of GV-B that is there."""

    FILES: ClassVar[bool] = True

    families: list[str] = field([], say="dotted names of families, package.module:FAMILY")
    label: str = ""  # the line's name in the table; "": the backbone's
    seed: int = 0  # of random weights, where --init is a variant's name

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Make the families known before the fields that may name them are read."""
        families.add_of_config(given)
        return given
