"""What every source of samples offers, whatever it reads."""

import functools
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.schema.sample import CorruptSample, Sample, ignored_of
from intern_jax.families.fields import IGNORE

ClassSets = Sequence[tuple[int, ...]]  # per sample its distinct classes, ascending


@runtime_checkable
class Source(Protocol):
    """Samples by index: `self[i]` is a pure function of i and safe to call from several threads.

    `labels` (int32 [N], or None) and `keys` are known without decoding a picture. A source may also have
    `fingerprint() -> str`, a digest that changes with its samples, and `examples() -> list[str]`, one for each of
    them (fingerprints.py). Without either, what is kept of a sample is known by reading it.

    A source of boxes or masks may also have `class_sets() -> ClassSets | None`: the classes of every sample, known
    without decoding a picture, and without objects that are ignored. None says that only reading would tell.

    A source whose pictures are what `decode` gave may say `scales = True`: training then decodes a large JPEG no larger
    than its view needs (data/read/scaled.py). A source that cuts or measures pictures must not say so.
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


def is_source(value: Any) -> bool:
    """Whether `value` has all that a Source has. None of it is asked for: `labels` may read every record.

    `isinstance` asks for each property on Python 3.11.
    """
    missing = object()
    members = ("name", "family", "classes", "keys", "labels")
    # What an object gives on demand (__getattr__) is asked for after all.
    return all(hasattr(type(value), special) for special in ("__len__", "__getitem__")) and all(
        inspect.getattr_static(value, member, missing) is not missing or hasattr(value, member)
        for member in members
    )


def read_scored(source: Source | Sequence[Sample], index: int) -> Sample:
    """A sample of a set that is scored, which must be whole: a replacement would change the score unseen.

    Raises UserError for a corrupt one.
    """
    try:
        return source[index]
    except CorruptSample as fault:
        raise UserError(f"{fault}; repair or remove it") from fault


def known_labels(source: Source) -> np.ndarray | None:
    """The labels that a source holds; None if it has none, or may read its records to tell them."""
    kind = inspect.getattr_static(type(source), "labels", None)
    return None if isinstance(kind, property | functools.cached_property) else source.labels


def known_class_sets(source: Source) -> ClassSets | None:
    """The classes of every sample as its labels or `class_sets` tell them; None if the samples must be read."""
    if source.labels is not None:
        return [(int(label),) for label in source.labels]
    own = getattr(source, "class_sets", None)
    return None if own is None else own()


def classes_of(sample: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The distinct classes of a sample's label, boxes that are not ignored, or else mask; None without them."""
    if "label" in sample:
        return distinct([sample["label"]])
    if "box_labels" in sample:
        return distinct(sample["box_labels"][~ignored_of(sample)])
    if "mask" in sample:
        return distinct(one for one in np.unique(sample["mask"]) if one != IGNORE)
    return None


def distinct(classes: Iterable[Any]) -> tuple[int, ...]:
    """Whole numbers, each once and ascending."""
    return tuple(sorted({int(one) for one in classes}))
