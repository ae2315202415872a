"""The settings of a stage's data: groups with their sources and transforms."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic

from intern_jax.core.config import UserError, parameters, resolve
from intern_jax.core.schema import Function, Settings, field, wrong
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


class SourceSpec(Function):
    """A source: the function that opens it, its weight in the mixture, and its shuffle."""

    weight: float = field(1.0, gt=0.0)
    shuffle: Shuffle = "full"

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
