"""Settings of a stage's data: groups of rows, their sources and transforms; and the families that groups belong to."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from intern_jax.core.schema import Function, Settings, field
from intern_jax.data.shuffle import BLOCK


class Block(Settings):
    """The block shuffle (data/shuffle.py), for records that are far away."""

    block: int = field(BLOCK["block"], ge=1)
    window: int = field(BLOCK["window"], ge=1)


def _form(value: Any) -> str:
    return "<block>" if isinstance(value, Mapping | Block) else "<full>"


Shuffle = Annotated[
    Annotated[Literal["full"], pydantic.Tag("<full>")] | Annotated[Block, pydantic.Tag("<block>")],
    pydantic.Discriminator(_form),
]


class SourceSpec(Function):
    """A source by the function that opens it, how often it is drawn, and how it is shuffled."""

    weight: float = field(1.0, gt=0.0)
    shuffle: Shuffle = "full"


class Transform(Function):
    """A transform by its function, which is called with (sample, random generator)."""

    positional: ClassVar[int] = 2


class Group(Settings):
    """Rows of one form, in batches of one size; data/mixture.py says how they are made."""

    sources: list[SourceSpec] = field(min_length=1, say="at least one source")
    batch_size: int = field(ge=1, say="the rows of a batch over all hosts, at least 1")
    transform: Transform
    # Of the sources that name none; each has its own once this is read.
    shuffle: Shuffle = field("full", matters=False)

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The group's shuffle written to its sources."""
        sources, shuffle = given["sources"], given.get("shuffle") or "full"
        if isinstance(sources, list):
            given["sources"] = [
                {"shuffle": shuffle}
                | {n: v for n, v in source.items() if (n, v) != ("shuffle", None)}
                if isinstance(source, dict)
                else source
                for source in sources
            ]
        return given | {"shuffle": shuffle}


def family_of(group: str, families: Iterable[str]) -> str | None:
    """The family of a group named FAMILY or FAMILY_SUFFIX; None where it is of none of these."""
    fitting = [f for f in families if group == f or group.startswith(f"{f}_")]
    return max(fitting, key=len, default=None)


def group_of(family: str, groups: Iterable[str]) -> str | None:
    """The first group of a family: the one of its very name before those with a suffix; None if there is none."""
    mine = [group for group in groups if family_of(group, [family])]
    return family if family in mine else next(iter(mine), None)
