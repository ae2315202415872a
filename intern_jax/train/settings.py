"""Settings of the loop and the optimizer: types, defaults and limits, and which of them change no array."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic

from intern_jax.core import schema
from intern_jax.core.schema import Settings, field

# Raise it when the loop, the step or an optimizer computes other arrays from the same settings.
FORMAT = 2

MAIN = "main"  # the group of parameters that no other group names
OPTIMIZERS = ("adamw", "sgd", "lion")
FALLS = ("cosine", "poly")  # schedules that fall to `end_rate`
_NONE = "a whole number, 0 for none"
Share = Annotated[float, pydantic.Field(gt=0.0, lt=1.0)]


class _Optimizer(Settings):
    """The settings of any optimizer; train/optim.py says what the fields do."""

    name: str = "adamw"
    learning_rate: float | None = field(None, ge=0.0)
    weight_decay: float = field(0.0, ge=0.0)
    l2: float = field(0.0, ge=0.0)
    warmup_steps: int = field(0, ge=0)
    schedule: Literal["cosine", "constant", "poly", "steps"] = "cosine"
    power: float = field(0.9, gt=0.0)
    end_rate: float = field(0.0, ge=0.0)
    drops: list[Share] = field([], late=True, say="shares of the steps, between 0 and 1")
    clip_norm: float = field(0.0, ge=0.0)
    b1: float = field(0.9, ge=0.0, lt=1.0)
    b2: float = field(0.999, ge=0.0, lt=1.0)
    momentum: float = field(0.9, ge=0.0, lt=1.0)
    lr_multipliers: list[list[Any]] = field([])

    @pydantic.field_validator("name")
    @classmethod
    def _known(cls, given: str) -> str:
        schema.one_of(given, OPTIMIZERS, "optimizer")
        return given

    @pydantic.model_validator(mode="after")
    def _drops_go_with_steps(self) -> Self:
        if (self.schedule == "steps") != bool(self.drops):
            said = "goes with schedule 'steps' alone, which needs one share at least"
            raise schema.wrong(said, "drops")
        if self.drops != sorted(set(self.drops)):
            raise schema.wrong(f"{self.drops}; write rising shares", "drops")
        return self

    @pydantic.model_validator(mode="after")
    def _ends_go_with_falls(self) -> Self:
        for name, default, schedules in (("end_rate", 0.0, FALLS), ("power", 0.9, ("poly",))):
            if getattr(self, name) != default and self.schedule not in schedules:
                known = " or ".join(f"'{one}'" for one in schedules)
                raise schema.wrong(
                    f"has no effect in schedule '{self.schedule}'; goes with {known}", name
                )
        if self.learning_rate is not None and self.end_rate > self.learning_rate:
            said = f"{self.end_rate:g} is above the peak learning_rate {self.learning_rate:g}; write a smaller rate"
            raise schema.wrong(said, "end_rate")
        return self

    @pydantic.field_validator("lr_multipliers")
    @classmethod
    def _pairs(cls, given: list[list[Any]]) -> list[list[Any]]:
        for position, pair in enumerate(given):
            number = len(pair) == 2 and type(pair[1]) in (int, float) and 0 <= pair[1] < math.inf
            if not number or not isinstance(pair[0], str):
                raise schema.wrong(f"{pair!r}; write [regex over names, factor]", position)
            schema.regex(pair[0], position)
        return given


class OptimGroup(_Optimizer):
    """A group of parameters with its own settings; the regex `match` matches their names from the start.

    `clip_norm`, set here or inherited, limits the norm of this group's gradient alone.
    """

    match: str = field(say="a regex over parameter names")

    @pydantic.field_validator("match")
    @classmethod
    def _regex(cls, given: str) -> str:
        schema.regex(given)
        return given


class Optim(_Optimizer):
    """The optimizer of all parameters outside `groups`. The groups inherit the settings that they do not set.

    `learning_rate` has no default. Fits that share one compiled step give it later; no fit runs without it.
    """

    groups: dict[str, OptimGroup] = field({})
    layer_decay: float = field(1.0, late=True, gt=0.0, le=1.0)  # of all groups

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The settings with those of the groups filled in."""
        groups = given.get("groups")
        if not isinstance(groups, Mapping):
            return given
        main = {name: value for name, value in given.items() if name != "groups"}
        if MAIN in groups:
            raise schema.wrong("the group of all others; name it otherwise", "groups", MAIN)
        filled = {
            n: {**_inherited(main, own), **own} if isinstance(own, Mapping) else own
            for n, own in groups.items()
        }
        return given | {"groups": filled}


def _inherited(main: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a group takes from the main settings, but what has no effect in a schedule of its own."""
    left = {"layer_decay"}
    if "schedule" in own:
        left |= {"drops"}
        left |= {"end_rate"} if own["schedule"] not in FALLS else set()
        left |= {"power"} if own["schedule"] != "poly" else set()
    return {n: v for n, v in main.items() if n not in left}


class PeakOptim(Optim):
    """An optimizer that must have a learning rate."""

    learning_rate: float = field(ge=0.0, say="the peak rate")


class Spike(Settings):
    """When a rise of the loss counts as divergence; train/progress/guard.py has the formula."""

    sigmas: float = field(6.0, gt=0.0)
    window: int = field(64, gt=0)
    patience: int = field(3, gt=0)


class Balance(Settings):
    """At which step the weights of loss terms are set, from how many batches; train/balance.py says how."""

    step: int = field(ge=1, say="the step before which weights are set, at least 1")
    batches: int = field(8, ge=1)
    trunk: str = "backbone/.*"
    limit: float = field(10.0, ge=1.0)

    @pydantic.field_validator("trunk")
    @classmethod
    def _regex(cls, given: str) -> str:
        schema.regex(given)
        return given


class Train(Settings):
    """The settings of one fit. `steps` has no default: fits that share one compiled step give it later."""

    steps: int | None = field(None, ge=0, say=_NONE)
    seed: int = 0
    optim: Optim = Optim()
    accumulate: int = field(1, ge=1)
    balance: Balance | None = field(None, late=True)
    ema_decay: float = field(0.0, ge=0.0, lt=1.0, say="0 for none, or less than 1")
    # The number of steps between checkpoints; None writes none.
    checkpoint_every: int | None = field(None, ge=1, matters=False)
    keep: int = field(
        2, ge=1, matters=False
    )  # how many of the newest stay, beside those of a roll-back
    keep_every: int | None = field(
        None, ge=1, matters=False
    )  # multiples of this step stay for good
    log_every: int = field(50, ge=1, matters=False)
    max_bad_steps: int = field(10, ge=1)  # so many non-finite steps in a row are a divergence
    spike: Spike | None = None
    max_rollbacks: int = field(3, ge=0, matters=False, say=_NONE)  # 0: a divergence ends the run
    profile: list[int] | None = field(None, matters=False)
    # A writer in clu.metric_writers that also gets the scalars, such as "SummaryWriter" (extra `tf`).
    clu_writer: str | None = field(None, matters=False)

    @pydantic.model_validator(mode="after")
    def _balance_comes_in_time(self) -> Self:
        if self.balance and self.steps and self.balance.step >= self.steps:
            said = f"{self.balance.step} of {self.steps} steps: no step would use the weights; set it earlier"
            raise schema.wrong(said, "balance", "step")
        return self

    @pydantic.field_validator("profile")
    @classmethod
    def _window(cls, given: list[int] | None) -> list[int] | None:
        if given and not (len(given) == 2 and 0 <= given[0] < given[1]):
            raise schema.wrong(f"{given!r}; write (first step, step to stop before)")
        return given


def check(cfg: Mapping[str, Any], where: str = "train") -> dict[str, Any]:
    """The loop's settings with all defaults filled in; an unknown field or a wrong value is a UserError."""
    return schema.checked(Train, cfg, where)


def optim(cfg: Mapping[str, Any], where: str = "optim") -> dict[str, Any]:
    """The optimizer's settings with all defaults filled in; an unknown field or a wrong value is a UserError."""
    return schema.checked(Optim, cfg, where)
