"""What every source of samples offers, whatever it reads."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.schema.sample import CorruptSample, Sample


@runtime_checkable
class Source(Protocol):
    """Samples by index: `self[i]` is a pure function of i and safe to call from several threads.

    `labels` (int32 [N], or None) and `keys` are known without decoding a picture. A source may also have
    `fingerprint() -> str`, a digest that changes with its samples, and `examples() -> list[str]`, one for each of
    them (fingerprints.py). Without either, what is kept of a sample is known by reading it.
    """

    @property
    def name(self) -> str: ...

    @property
    def family(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def read_scored(source: Source | Sequence[Sample], index: int) -> Sample:
    """A sample of a set that is scored, which must be whole: a replacement would change the score unseen.

    Raises UserError for a corrupt one.
    """
    try:
        return source[index]
    except CorruptSample as fault:
        raise UserError(f"{fault}; repair or remove it") from fault
