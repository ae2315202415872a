"""The settings of a stage's data: groups with their sources and transforms."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic

from intern_jax.core.config import UserError, parameters, resolve
from intern_jax.core.schema import Function, Settings, field, wrong
from intern_jax.data.batches.segments import timed_weights
from intern_jax.data.batches.shuffle import BLOCK
from intern_jax.data.schema.sample import SOURCE_FIELDS


class Block(Settings):
    """The block shuffle (data/batches/shuffle.py), for records on remote storage."""

    block: int = field(BLOCK["block"], ge=1)
    window: int = field(BLOCK["window"], ge=1)


def _form(value: Any) -> str:
    return "<block>" if isinstance(value, Mapping | Block) else "<full>"


Shuffle = Annotated[
    Annotated[Literal["full"], pydantic.Tag("<full>")] | Annotated[Block, pydantic.Tag("<block>")],
    pydantic.Discriminator(_form),
]


def _is_shuffle(value: Any) -> bool:
    try:
        pydantic.TypeAdapter(Shuffle).validate_python(value, strict=True)
    except pydantic.ValidationError:
        return False
    return True


class Balance(Settings):
    """Class-aware sampling (data/batches/balance.py): how often an epoch has each sample of a source."""

    by: Literal["repeat", "class"] | None = None
    threshold: float | None = field(None, gt=0.0)
    index: str | None = None

    @pydantic.model_validator(mode="after")
    def _repeat_has_a_threshold(self) -> Self:
        if (self.by is None) == (self.index is None):
            raise wrong("write by ('repeat' or 'class'), or index, a file of factors; and not both")
        if (self.by == "repeat") != (self.threshold is not None):
            said = "goes with by 'repeat': a class in a smaller share of samples comes more often"
            raise wrong(f"{self.threshold}; {said}", "threshold")
        return self


class SourceSpec(Function):
    """A source: the function that opens it, its weight in the mixture, its shuffle, and when it is in the mixture.

    It is in the mixture in the training steps t with begin <= t < end; meanwhile others have its share, in proportion.
    """

    weight: float = field(1.0, gt=0.0)
    shuffle: Shuffle = "full"
    begin: int = field(0, late=True, ge=0)
    end: int | None = field(None, late=True, ge=1)
    balance: Balance | None = field(None, late=True)

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end is not None and self.end <= self.begin:
            raise wrong(f"{self.end}; write a step after begin, {self.begin}", "end")
        if self.balance is not None and self.shuffle != "full":
            said = "a source with balance is read in any order"
            raise wrong(f"goes with shuffle 'full' alone: {said}", "balance")
        return self

    @classmethod
    def beside(cls, function: Any) -> tuple[str, ...]:
        """The fields that make a source of a grain.MapDataset, if the function returns one (datasets.py)."""
        known = parameters(function).values() if callable(function) else ()
        if any(p.kind is p.VAR_KEYWORD for p in known):
            return ()
        return tuple(set(SOURCE_FIELDS) - {p.name for p in known})


class Transform(Function):
    """A transform: a function of (sample, random generator), a class of such functions, or a Grain transform."""

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments with defaults. A Grain transform that is an object has no arguments."""
        try:
            ready = not callable(resolve(given["fn"]))
        except UserError as error:
            raise wrong(str(error)) from None
        return given if ready and len(given) == 1 else super().completed(given)

    @classmethod
    def called_with(cls, function: Any) -> tuple[int, tuple[str, ...]]:
        """Two positional arguments, a sample and a generator; none for a class, which makes an object."""
        return (0 if isinstance(function, type) else 2), ()


class Group(Settings):
    """A group: rows of one form in batches of one size; data/batches/mixture.py says how they are made."""

    sources: list[SourceSpec] = field(min_length=1, say="at least one source")
    batch_size: int = field(ge=1, say="the rows of a batch over all hosts, at least 1")
    transform: Transform
    # The default of sources without their own; `completed` writes it to each source.
    shuffle: Shuffle = field("full", matters=False)
    # A source's share is its weight times (its number of samples)^(1/temperature); None: the weights alone.
    temperature: float | None = field(None, late=True, gt=0.0)

    @pydantic.model_validator(mode="after")
    def _never_empty(self) -> Self:
        spans = [{"begin": source.begin, "end": source.end} for source in self.sources]
        try:
            timed_weights(spans, "sources")
        except UserError as error:
            raise wrong(str(error).partition(": ")[2], "sources") from None
        return self

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The settings with the group's shuffle written to each source that has none."""
        sources, shuffle = given["sources"], given.get("shuffle") or "full"
        if isinstance(shuffle, str | Mapping) and not _is_shuffle(shuffle):
            return given  # it is refused as the group's field, and not once per source
        if isinstance(sources, list):
            given["sources"] = [
                {"shuffle": shuffle}
                | {n: v for n, v in source.items() if (n, v) != ("shuffle", None)}
                if isinstance(source, dict)
                else source
                for source in sources
            ]
        return given | {"shuffle": shuffle}
