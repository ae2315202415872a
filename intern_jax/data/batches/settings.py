"""Settings of a stage's data: groups of rows, with their sources and transforms."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic

from intern_jax.core.config import UserError, parameters, resolve
from intern_jax.core.schema import Function, Settings, field, wrong
from intern_jax.data.batches.shuffle import BLOCK
from intern_jax.data.schema.sample import SOURCE_FIELDS


class Block(Settings):
    """The block shuffle (data/batches/shuffle.py), for records that are far away."""

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


class SourceSpec(Function):
    """A source by the function that opens it, how often it is drawn, and how it is shuffled."""

    weight: float = field(1.0, gt=0.0)
    shuffle: Shuffle = "full"

    @classmethod
    def beside(cls, function: Any) -> tuple[str, ...]:
        """What makes a source of a grain.MapDataset, where the function returns one (data/batches/datasets.py)."""
        known = parameters(function).values() if callable(function) else ()
        if any(p.kind is p.VAR_KEYWORD for p in known):
            return ()
        return tuple(set(SOURCE_FIELDS) - {p.name for p in known})


class Transform(Function):
    """A transform by its function of (sample, random generator), by a class of such, or by a Grain transform."""

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments with defaults; an object that is no function (a Grain transform) has none."""
        try:
            ready = not callable(resolve(given["fn"]))
        except UserError as error:
            raise wrong(str(error)) from None
        return given if ready and len(given) == 1 else super().completed(given)

    @classmethod
    def called_with(cls, function: Any) -> tuple[int, tuple[str, ...]]:
        """A sample and a generator, or nothing to make an object of a class."""
        return (0 if isinstance(function, type) else 2), ()


class Group(Settings):
    """Rows of one form, in batches of one size; data/batches/mixture.py says how they are made."""

    sources: list[SourceSpec] = field(min_length=1, say="at least one source")
    batch_size: int = field(ge=1, say="the rows of a batch over all hosts, at least 1")
    transform: Transform
    # Of the sources that name none; each has its own once this is read.
    shuffle: Shuffle = field("full", matters=False)

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The group's shuffle written to its sources."""
        sources, shuffle = given["sources"], given.get("shuffle") or "full"
        if isinstance(shuffle, str | Mapping) and not _is_shuffle(shuffle):
            return given  # refused in its own place, and not in every source's
        if isinstance(sources, list):
            given["sources"] = [
                {"shuffle": shuffle}
                | {n: v for n, v in source.items() if (n, v) != ("shuffle", None)}
                if isinstance(source, dict)
                else source
                for source in sources
            ]
        return given | {"shuffle": shuffle}
