"""Some samples of another source."""

import functools
from collections.abc import Sequence

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.data.schema.sample import Sample
from intern_jax.data.schema.source import ClassSets, Source, known_class_sets
from intern_jax.data.sources.array_record import pick_keys


class Subset:
    """The samples of another source at `indices`, in that order."""

    def __init__(
        self, source: Source, indices: Sequence[int] | np.ndarray, name: str | None = None
    ):
        self.source = source
        self.indices = np.asarray(indices, np.int64).reshape(-1)
        outside = self.indices[(self.indices < 0) | (self.indices >= len(source))]
        if len(outside):
            raise UserError(
                f"{source.name}/subset: index {outside[0]} is outside 0..{len(source) - 1};"
                " take indices from this same source"
            )
        self.name = name or source.name
        self.family, self.classes = source.family, source.classes
        self.scales = getattr(source, "scales", False)
        self.keys = pick_keys(source.keys, self.indices)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """Those of the other source at the indices, or None if it has none."""
        every = self.source.labels
        return None if every is None else every[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[int(self.indices[index])]

    def class_sets(self) -> ClassSets | None:
        """Those of the whole source at the indices."""
        every = known_class_sets(self.source)
        return None if every is None else [every[int(i)] for i in self.indices]

    def fingerprint(self) -> str:
        """A digest of the whole source's fingerprint and the indices."""
        return fingerprints.combine(fingerprint(self.source), self.name, self.indices)

    def examples(self) -> list[str]:
        """Those of the whole source at the indices: other samples do not matter."""
        if hasattr(self.source, "examples") or hasattr(self.source, "fingerprint"):
            every = fingerprints.of_examples(self.source)
            return [every[i] for i in self.indices]
        return [fingerprints.of_sample(self.source[int(i)]) for i in self.indices]
