"""A group's batches as a pure function of their index: sources mixed, transformed, stacked.

Every source is shuffled (each epoch anew) and repeated, then sources are mixed in a fixed pattern
by weight; the transform's generator is keyed by the row's global index; only then this host's rows
are taken. So the batch at an index depends on (config, seed, index) alone: not on hosts, threads,
processes, or what was read before.

A group's config:
  {"sources": [{"fn": "pkg.module:attr", "weight": 1.0, "shuffle": "full", **arguments of fn}, ...],
   "batch_size": rows over all hosts,
   "transform": {"fn": "intern_jax.data.transforms:classification", "size": 32, ...},
   "shuffle": of the sources that name none}
`shuffle` is "full" (the default) or {"block": records, "window": blocks} (shuffle.py: for records
that are far away). Rows have the transform's fields and `source` int32, the position in `sources`.
"""

import functools
import inspect
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from intern_jax.core.config import UserError, bind
from intern_jax.data.replacing import Replacing
from intern_jax.data.sample import Sample, check_labels
from intern_jax.data.shuffle import BlockOrder, FullOrder, Order, block_settings
from intern_jax.data.sources import Source

if TYPE_CHECKING:
    import grain

# Beyond this a host's batch is a mistake in batch_size or size rather than a wish.
MAX_BATCH_BYTES = 4 << 30
# Up to this length an epoch's order is kept as a table. Grain's shuffle needs none, but walks about
# 65536 / length steps for every row: milliseconds for the few samples of an adaptation.
MAX_TABLE = 1 << 20

# What a source's spec says beside the arguments of its function.
SPEC_FIELDS = ("weight", "shuffle")

Transform = Callable[[Sample, np.random.Generator], Mapping[str, np.ndarray]]
Batch = dict[str, dict[str, np.ndarray]]
Weights = Mapping[str, Sequence[float]]


class Groups:
    """The groups of a run, their sources open: {group: {field: [rows of this host, ...]}}.

    `groups` maps a name to a group's config or to ready batches by index, which know neither seed
    nor weights. `rows` = (h, H): the h-th of H contiguous blocks of every batch. Raises UserError for
    settings or sources that cannot work.
    """

    def __init__(self, groups: Mapping[str, Any], rows: tuple[int, int] = (0, 1)):
        self._groups, self._rows = dict(groups), rows
        self.sources = {
            name: group_sources(cfg, name) for name, cfg in self._groups.items() if _is_config(cfg)
        }
        self.ready = sorted(set(self._groups) - set(self.sources))
        self._guarded = {name: _guard(sources, name) for name, sources in self.sources.items()}
        self._lock = threading.Lock()
        # Two segments meet where one ends; more are seldom in use at once.
        self._datasets = functools.lru_cache(maxsize=4)(self._make_datasets)

    def batch(self, seed: int, weights: Weights | None, index: int) -> Batch:
        """The batch at an index of the mixture that a seed and weights give; safe in threads."""
        return {name: batches[index] for name, batches in self.prepare(seed, weights).items()}

    def prepare(self, seed: int, weights: Weights | None) -> Mapping[str, Any]:
        """The groups' batches by index, checked: what cannot work raises UserError here."""
        key = tuple((name, tuple(given)) for name, given in sorted((weights or {}).items()))
        with self._lock:
            return self._datasets(seed, key)

    def faults(self) -> Counter[str]:
        """How many reads met damage so far, by "source: cause", in groups that have a config."""
        total: Counter[str] = Counter()
        for guarded in self._guarded.values():
            for source in guarded:
                for cause, count in source.faults().items():
                    total[f"{source.name}: {cause}"] += count
        return total

    def _make_datasets(self, seed: int, weights: tuple) -> dict[str, Any]:
        given = dict(weights)
        return {
            name: self._dataset(name, cfg, seed, given.get(name))
            for name, cfg in self._groups.items()
        }

    def _dataset(self, name: str, cfg: Any, seed: int, weights: Sequence[float] | None) -> Any:
        if name in self.sources:
            return build_group(cfg, seed, self._guarded[name], self._rows, weights, name)
        return cfg if self._rows[1] == 1 else _Block(cfg, self._rows)


class _Block:
    """One of several contiguous blocks of ready batches' rows."""

    def __init__(self, batches: Any, rows: tuple[int, int]):
        self._batches, self._rows = batches, rows

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        block, blocks = self._rows
        out = {}
        for field, value in self._batches[index].items():
            if len(value) % blocks:
                raise UserError(
                    f"{field}: {len(value)} rows do not divide over {blocks} hosts; take a multiple"
                )
            count = len(value) // blocks
            out[field] = value[block * count : (block + 1) * count]
        return out


def _is_config(group: Any) -> bool:
    return isinstance(group, Mapping)


def group_sources(cfg: Mapping[str, Any], where: str = "group") -> list[Source]:
    """Open a group's sources, in the order of `source`."""
    if not cfg.get("sources"):
        raise UserError(f"{where}.sources: empty; name at least one source")
    opened = []
    for i, spec in enumerate(cfg["sources"]):
        make = bind({name: value for name, value in spec.items() if name not in SPEC_FIELDS})
        source = _complete(make, f"{where}.sources[{i}]")()
        if not isinstance(source, Source):
            raise UserError(
                f"{where}.sources[{i}].fn: {spec['fn']} gave {type(source).__name__}, no source;"
                " it needs name, family, classes, keys, labels, len() and [index]"
            )
        opened.append(source)
    return opened


def build_group(
    cfg: Mapping[str, Any],
    seed: int,
    sources: Sequence[Source] | None = None,
    rows: tuple[int, int] = (0, 1),
    weights: Sequence[float] | None = None,
    where: str = "group",
) -> "Batches":
    """Batches without end: item i is batch i, {field: [rows of this host, ...]}.

    `sources` are ready sources in place of the config's; `rows` = (h, H) gives the h-th of H
    contiguous blocks of every batch; `weights` replace the config's. `cfg["transform"]` may also be
    a callable. Raises UserError for settings that cannot work and for sources whose first sample or
    labels break the schema.
    """
    # Imported here: grain imports jax, which a reader of this file alone does not need.
    import grain

    sources = group_sources(cfg, where) if sources is None else list(sources)
    block = _block_size(cfg, rows, where)
    weights = _weights(cfg, sources, weights, where)
    shuffles = _shuffles(cfg, len(sources), where)
    transform = cfg["transform"] if callable(cfg["transform"]) else bind(cfg["transform"])
    _complete(transform, f"{where}.transform", None, None)
    guarded = _guard(sources, where)
    _check_rows(guarded, transform, block, where)
    parts = []
    for i, source in enumerate(guarded):
        tagged, shuffle_seed = _Tagged(source, i), _seed(seed, "shuffle", i, source.name)
        if len(source) > MAX_TABLE and shuffles[i] is None:
            parts.append(grain.MapDataset.source(tagged).shuffle(seed=shuffle_seed).repeat())
        else:
            order = _order(source, shuffle_seed, shuffles[i])
            parts.append(grain.MapDataset.source(_Repeated(tagged, order)))
    mixed = grain.MapDataset.mix(parts, weights=weights) if len(parts) > 1 else parts[0]
    made = mixed.random_map(_WithSource(transform), seed=_seed(seed, "transform"))
    return Batches(made, block, rows, where)


class Batches:
    """Rows by global index as batches by index, this host's block of each.

    A row is put in its place before the next is made: rows of pictures that wait for each other cost
    fresh memory each, more time than all the rest around a transform.
    """

    def __init__(self, made: "grain.MapDataset", block: int, rows: tuple[int, int], where: str):
        self._rows, self._block, self._host, self._where = made, block, rows, where

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
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
                f"{self._where}.transform/{field}: a row has {_form(found)}, another"
                f" {_form(form)}; rows must be equal"
            )
        out[position] = value


class _Tagged:
    """A source whose samples say which source of the group they are from."""

    def __init__(self, source: Source, position: int):
        self.source, self.position = source, position

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        return {**self.source[index], "source": self.position}


class _Repeated:
    """A source repeated without end, in another order each epoch."""

    def __init__(self, source: _Tagged, order: Order):
        self.source, self.order = source, order

    def __len__(self) -> int:
        return sys.maxsize - sys.maxsize % self.order.count

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.order(*divmod(index, self.order.count))]


class _WithSource:
    """A transform whose rows carry `source`."""

    def __init__(self, transform: Transform):
        self.transform = transform

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {**self.transform(sample, rng), "source": np.int32(sample["source"])}


def _seed(seed: int, *names: Any) -> int:
    # Hashed: Grain adds 1 to its shuffle seed each epoch, so seeds 0 and 1 would share epochs.
    return zlib.crc32("/".join(map(str, (seed, *names))).encode())


def _complete(function: Callable[..., Any], where: str, *args: Any) -> Callable[..., Any]:
    """Return a bound function unchanged, if it can be called with these arguments."""
    try:
        inspect.signature(function).bind(*args)
    except TypeError as error:
        raise UserError(f"{where}: {error}; give it beside fn") from error
    return function


def _guard(sources: Sequence[Source], where: str) -> list[Replacing]:
    return [
        source
        if isinstance(source, Replacing)
        else Replacing(source, where=f"{where}.sources[{i}] ({source.name})")
        for i, source in enumerate(sources)
    ]


def _order(guarded: Replacing, seed: int, shuffle: Mapping[str, int] | None) -> Order:
    if shuffle is None:
        return FullOrder(len(guarded), seed)
    # A source that is made of files says how many records each has.
    shards = getattr(guarded.source, "shards", None) or [len(guarded)]
    return BlockOrder(shards, seed, **shuffle)


def _shuffles(cfg: Mapping[str, Any], count: int, where: str) -> list[dict[str, int] | None]:
    """Each source's block shuffle, or None for the full one."""
    default = cfg.get("shuffle")
    specs = cfg.get("sources") or [{}] * count
    if len(specs) != count:
        return [block_settings(default, where)] * count
    return [
        block_settings(spec.get("shuffle", default), f"{where}.sources[{i}]")
        for i, spec in enumerate(specs)
    ]


def _block_size(cfg: Mapping[str, Any], rows: tuple[int, int], where: str) -> int:
    size, (block, blocks) = cfg.get("batch_size"), rows
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UserError(f"{where}.batch_size: {size!r}; give a positive int")
    if not 0 <= block < blocks:
        raise UserError(f"{where}.rows: block {block} of {blocks}; give 0..{blocks - 1}")
    if size % blocks:
        raise UserError(
            f"{where}.batch_size: {size} does not divide over {blocks} hosts; take a multiple"
        )
    return size // blocks


def _weights(
    cfg: Mapping[str, Any], sources: Sequence[Source], weights: Sequence[float] | None, where: str
) -> list[float]:
    if weights is None:
        specs = cfg.get("sources") or [{}] * len(sources)
        weights = [spec.get("weight", 1.0) for spec in specs]
    if len(weights) != len(sources):
        raise UserError(
            f"{where}.weights: {len(weights)} for {len(sources)} sources; give one for each"
        )
    for i, (weight, source) in enumerate(zip(weights, sources, strict=True)):
        if not weight > 0:
            raise UserError(
                f"{where}.sources[{i}].weight: {weight}; give a positive number or drop the source"
            )
        if not len(source):
            raise UserError(
                f"{where}.sources[{i}]: '{source.name}' has no samples; drop it or fill it"
            )
    return [float(weight) for weight in weights]


def _check_rows(sources: Sequence[Replacing], transform: Transform, block: int, where: str) -> None:
    """Make one row of every source: what cannot work stops here, not in a worker hours later."""
    form, first = None, ""
    for i, source in enumerate(sources):
        name = f"{where}.sources[{i}] ({source.name})"
        if source.labels is not None and source.classes:
            check_labels(source.labels, len(source.classes), name)
        row = transform(source[0], np.random.default_rng(0))
        found = {field: (np.shape(value), np.asarray(value).dtype) for field, value in row.items()}
        if form is None:
            form, first = found, source.name
        if found != form:
            field = next(f for f in [*form, *found] if form.get(f) != found.get(f))
            raise UserError(
                f"{name}/{field}: {_form(found.get(field))}, '{first}' has"
                f" {_form(form.get(field))}; put them in two groups, rows must be equal"
            )
    size = block * sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in form.values())
    if size > MAX_BATCH_BYTES:
        raise UserError(
            f"{where}.batch_size: {size / 2**30:.1f} GiB for {block} rows, above"
            f" {MAX_BATCH_BYTES >> 30} GiB; lower batch_size or the transform's size"
        )


def _form(found: tuple | None) -> str:
    return "nothing" if found is None else f"{found[1]} {list(found[0])}"
