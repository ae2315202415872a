"""A group's pipeline as Grain MapDatasets: the parts that Grain lacks, and adapters for a user's Grain parts.

rows:     Ordered (a source in our order, without end) -> Mixed (of several) -> random_map(transform)
batches:  Batched: item i is this host's block of batch i

Every part is a pure function of its index. A user's MapDataset becomes a source (MapSource). A
user's grain.transforms.Map or RandomMap becomes a transform (`as_transform`).
"""

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from intern_jax import families
from intern_jax.core.config import UserError, bind, call_fault, resolve
from intern_jax.data.batches.mix import Turns
from intern_jax.data.batches.shuffle import Order
from intern_jax.data.read import scaled
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import (
    SOURCE_FIELDS,
    CorruptSample,
    Sample,
    Transform,
    check_labels,
)
from intern_jax.data.schema.source import ClassSets, Source
from intern_jax.data.sources.array_record import Keys


class Ordered(grain.MapDataset):
    """A source repeated without end, in a new order each epoch. Samples carry the source's `position`."""

    def __init__(self, source: Source, position: int, order: Order):
        super().__init__()
        self._source, self._position, self._order = source, position, order
        self._length = sys.maxsize - sys.maxsize % order.count

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        record = self._order(*divmod(index, self._order.count))
        return {**self._source[record], "source": self._position}


class Mixed(grain.MapDataset):
    """Rows of several endless datasets; `turns` says from which each comes, and which of its items it is.

    Grain's own `mix` cuts weights to whole per cents of the smallest, and its counts drift from the shares.
    """

    def __init__(self, parts: Sequence[grain.MapDataset], turns: Turns):
        super().__init__(parts)
        self._datasets, self._turns = list(parts), turns

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        source, draw = self._turns.place(index)
        return self._datasets[source][draw]


class Batched(grain.MapDataset):
    """Batches by index, made from rows by global index; `rows` = (host, hosts) selects a block of each batch.

    Each row is copied into the batch before the next row is made. Grain's own `batch` collects the
    rows first and stacks them. That needs fresh memory for every row, which takes longer than
    everything else around a transform.
    """

    def __init__(self, parent: grain.MapDataset, block: int, rows: tuple[int, int], where: str):
        super().__init__(parent)
        self._rows, self._block, self._host, self._where = parent, block, rows, where

    def __len__(self) -> int:
        return len(self._rows) // (self._block * self._host[1])

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        number, of = self._host
        first = (index * of + number) * self._block
        out: dict[str, np.ndarray] = {}
        for position in range(self._block):
            row = self._rows[first + position]
            if not position:
                out = {field: self._room(value) for field, value in row.items()}
            if row.keys() != out.keys():
                raise UserError(
                    f"{self._where}.transform: a row has {', '.join(row)}, another"
                    f" {', '.join(out)}; rows must be equal"
                )
            for field, value in row.items():
                self._put(out[field], position, np.asarray(value), field)
        return out

    def _room(self, value: Any) -> np.ndarray:
        value = np.asarray(value)
        return np.empty((self._block, *value.shape), value.dtype)

    def _put(self, out: np.ndarray, position: int, value: np.ndarray, field: str) -> None:
        if value.shape != out.shape[1:] or value.dtype != out.dtype:
            found, form = (value.shape, value.dtype), (out.shape[1:], out.dtype)
            raise UserError(
                f"{self._where}.transform/{field}: a row has {form_text(found)}, another"
                f" {form_text(form)}; rows must be equal"
            )
        out[position] = value


class WithSource:
    """A transform whose rows also have the field `source`."""

    def __init__(self, transform: Transform):
        self.transform = transform

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        return {**self.transform(sample, rng), "source": np.int32(sample["source"])}


class Later(grain.MapDataset):
    """Elements that are read when they are called: the transform says first how it will look at them."""

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return functools.partial(self._parent.__getitem__, index)


class Reading:
    """A transform of `Later`: it draws where it will look, has the sample read for that, and makes the row.

    `reduction` (width, height, rng) makes the same draws as the transform, and says how many times smaller a JPEG of
    that size may be decoded.
    """

    def __init__(self, transform: Transform, reduction: Callable[..., int]):
        self.transform, self.reduction = transform, reduction

    def __call__(
        self, read: Callable[[], Sample], rng: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        bits = rng.bit_generator
        before = bits.state

        def by(width: int, height: int) -> int:
            try:
                return self.reduction(width, height, rng)
            finally:
                bits.state = before

        with scaled.reduced(by):
            sample = read()
        return self.transform(sample, rng)


def reduction_of(transform: Transform) -> Callable[..., int] | None:
    """The transform's own `reduction`, a function's with all its settings; None of one that needs whole pictures."""
    if not isinstance(transform, functools.partial):
        return getattr(transform, "reduction", None)
    found = getattr(transform.func, "reduction", None)
    usual = getattr(transform.func, "__kwdefaults__", None) or {}
    return found and functools.partial(found, **{**usual, **transform.keywords})


class MapSource:
    """One epoch of a user's MapDataset as a source. Its elements are samples, which may lack a key.

    `name`, `family`, `classes`, `keys` and `labels` are the given ones, or else the dataset's attributes.
    Their defaults are `default_name`, "classification", no classes, "NAME/INDEX" and no labels.
    """

    def __init__(self, dataset: grain.MapDataset, default_name: str, **given: Any):
        def find(field: str, default: Any) -> Any:
            return given.get(field, getattr(dataset, field, default))

        self.name, self.family = find("name", default_name), find("family", "classification")
        self.classes, self._dataset = tuple(find("classes", ())), dataset
        families.find(self.family, f"{self.name}/family")
        if len(dataset) >= sys.maxsize // 2:
            raise UserError(
                f"{self.name}: repeats without end; give one epoch, which is repeated here"
            )
        keys, labels = find("keys", None), find("labels", None)
        self._numbered = keys is None
        self.keys = Keys(len(dataset), self._key) if keys is None else keys
        self.labels = None if labels is None else np.asarray(labels, np.int32)
        for field, value in (("keys", self.keys), ("labels", self.labels)):
            if value is not None and len(value) != len(dataset):
                raise UserError(
                    f"{self.name}/{field}: {len(value)} for {len(dataset)} elements; give one each"
                )
        if self.labels is not None and self.classes:
            check_labels(self.labels, len(self.classes), self.name)

    def _key(self, index: int) -> str:
        return f"{self.name}/{index}"

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self._dataset))[index]
        key, element = self.keys[index], self._dataset[index]
        if element is None:
            raise CorruptSample(
                key, "no element", "a filter dropped it; leave it out of the source"
            )
        if not isinstance(element, Mapping):
            kind = type(element).__name__
            raise UserError(
                f"{key}: {kind} is not a sample; map elements to dicts with image, label ..."
            )
        return {"key": key, **element}

    def class_sets(self) -> ClassSets | None:
        """The dataset's own, if it has some."""
        own = getattr(self._dataset, "class_sets", None)
        return None if own is None else own()

    def fingerprint(self) -> str:
        """The dataset's own fingerprint if it has one, else a digest of its class, length, keys and labels.

        The elements themselves are not read.
        """
        own = getattr(self._dataset, "fingerprint", None)
        content = own() if own is not None else type(self._dataset).__qualname__
        keys = () if self._numbered else self.keys
        parts = (self.name, self.family, self.classes, keys, self.labels)
        return fingerprints.combine(content, len(self), *parts)


def open_source(spec: Mapping[str, Any], where: str) -> Any:
    """The source that the function of {"fn": name, **arguments} returns; a MapDataset becomes a MapSource.

    Arguments in SOURCE_FIELDS that the function has no parameter for describe the MapDataset instead.
    """
    function = resolve(spec["fn"]) if spec.get("fn") else None
    taken: Collection[str] = SOURCE_FIELDS
    open_ended = False
    if callable(function):
        taken = (arguments := inspect.signature(function).parameters)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
    given = {
        field: spec[field]
        for field in SOURCE_FIELDS
        if field in spec and field not in taken and not open_ended
    }
    make = bind({name: value for name, value in spec.items() if name not in given})
    source = complete(make, where)()
    if isinstance(source, grain.MapDataset):
        return MapSource(source, spec["fn"].rpartition(":")[2], **given)
    if given:
        bind(spec)  # raises UserError about them
    return source


def as_transform(spec: Any, where: str) -> Transform:
    """A `transform(sample, rng)` from a spec, a callable, or a grain.transforms.Map or RandomMap.

    A spec names a function, a Grain transform, or a class of Grain transforms with its arguments.
    """
    made = spec
    if isinstance(spec, Mapping) and isinstance(spec.get("fn"), str):
        made = resolve(spec["fn"])
        if isinstance(made, type):
            made = complete(bind(spec), where)()
        elif callable(made) or len(spec) > 1:
            made = bind(spec)
    if isinstance(made, grain.transforms.RandomMap):
        return made.random_map
    if isinstance(made, grain.transforms.Map):
        return lambda sample, _rng: made.map(sample)
    if not callable(made):
        kinds = "a function of (sample, rng), a grain.transforms.Map or RandomMap"
        raise UserError(f"{where}: {type(made).__name__}; give {kinds}")
    return complete(made, where, None, None)


def complete(function: Callable[..., Any], where: str, *args: Any) -> Callable[..., Any]:
    """Return a bound function unchanged if it can be called with these arguments; else raise UserError."""
    try:
        inspect.signature(function).bind(*args)
    except TypeError as error:
        raise UserError(f"{where}: {call_fault(error)}; give it beside fn") from error
    return function


def form_text(found: tuple[Sequence[int], Any] | None) -> str:
    """(shape, dtype) of an array in words."""
    return "nothing" if found is None else f"{found[1]} {list(found[0])}"
