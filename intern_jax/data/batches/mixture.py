"""The batches of a group as a pure function of their index: sources are mixed, transformed and stacked.

Every source is shuffled anew each epoch and repeated. The sources are then mixed in a fixed pattern
by weight. The random generator of a transform is keyed by the row's global index. Only after that
this host's rows are selected. A batch therefore depends on (config, seed, index) alone, and not on
hosts, threads, processes or earlier reads.

The config of a group:
  {"sources": [{"fn": "pkg.module:attr", "weight": 1.0, "shuffle": "full", **arguments of fn}, ...],
   "batch_size": rows over all hosts,
   "transform": {"fn": "intern_jax.data.make.views:classification", "size": 32, ...},
   "shuffle": the default of sources that set none}
A source's fn may also return a grain.MapDataset of samples; the name, family, classes, keys and labels
that it lacks then stand beside fn. A transform's fn may be a grain.transforms.Map or RandomMap
(datasets.py). `shuffle` is "full" (the default) or {"block": records, "window": blocks}, which suits
records on remote storage (shuffle.py). Rows have the transform's fields and `source`, the int32
position in `sources`.
"""

import functools
import math
import threading
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.batches.segments import Weights
from intern_jax.data.batches.shuffle import BlockOrder, FullOrder, Order, block_settings
from intern_jax.data.schema.sample import Transform, check_labels
from intern_jax.data.schema.source import Source
from intern_jax.data.sources.replacing import Replacing

if TYPE_CHECKING:
    from intern_jax.data.batches.datasets import Batched

# A larger batch per host is taken for a mistake in batch_size or size.
MAX_BATCH_BYTES = 4 << 30
# Up to this length an epoch's order is kept as a table. Grain's shuffle needs no table, but takes about
# 65536 / length steps per row, which is milliseconds for the few samples of an adaptation.
MAX_TABLE = 1 << 20

# Up to this period of a mix its parts are counted one by one, in less than a second.
MAX_STARTS = 1 << 24

# The fields of a source's spec that are not arguments of its function.
SPEC_FIELDS = ("weight", "shuffle")

Batch = dict[str, dict[str, np.ndarray]]


class Groups:
    """The groups of a run with open sources; a batch is {group: {field: [rows of this host, ...]}}.

    `groups` maps a name to a group's config, or to ready batches by index, which depend on neither
    seed nor weights. `rows` = (h, H) selects block h of the H contiguous blocks of every batch.
    UserError for settings or sources that cannot work.
    """

    def __init__(self, groups: Mapping[str, Any], rows: tuple[int, int] = (0, 1)):
        self._groups, self._rows = dict(groups), rows
        self.sources = {
            name: group_sources(cfg, name) for name, cfg in self._groups.items() if _is_config(cfg)
        }
        self.ready = sorted(set(self._groups) - set(self.sources))
        self._guarded = {name: _guard(sources, name) for name, sources in self.sources.items()}
        self._lock = threading.Lock()
        # Two segments are in use around the step where one ends; more at once are rare.
        self._datasets = functools.lru_cache(maxsize=4)(self._make_datasets)

    def batch(self, seed: int, weights: Weights | None, index: int) -> Batch:
        """The batch at an index of the mixture with this seed and these weights; thread-safe."""
        return {name: batches[index] for name, batches in self.prepare(seed, weights).items()}

    def prepare(self, seed: int, weights: Weights | None) -> Mapping[str, Any]:
        """The batches of each group by index, after a check: UserError for what cannot work."""
        key = tuple((name, tuple(given)) for name, given in sorted((weights or {}).items()))
        with self._lock:
            return self._datasets(seed, key)

    def faults(self) -> Counter[str]:
        """The number of damaged reads so far, by "source: cause", in groups that have a config."""
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
    """One of several contiguous blocks of the rows of ready batches."""

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
    # Imported inside functions: grain imports jax, which other users of this file do not need.
    from intern_jax.data.batches.datasets import open_source

    opened = []
    for i, spec in enumerate(cfg["sources"]):
        arguments = {name: value for name, value in spec.items() if name not in SPEC_FIELDS}
        source = open_source(arguments, f"{where}.sources[{i}]")
        if not isinstance(source, Source):
            raise UserError(
                f"{where}.sources[{i}].fn: {spec['fn']} gave {type(source).__name__}, not a source;"
                " return one with name, family, classes, keys, labels, len() and [index], or a"
                " grain.MapDataset of samples"
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
) -> "Batched":
    """An endless grain.MapDataset of batches: item i is batch i, {field: [rows of this host, ...]}.

    `sources` replace those of the config. `rows` = (h, H) selects block h of the H contiguous blocks
    of every batch. `weights` replace those of the config. `cfg["transform"]` may also be a callable or
    an object of grain.transforms. UserError for settings that cannot work, and for sources whose
    first sample or labels break the schema.
    """
    import grain

    from intern_jax.data.batches.datasets import Batched, Ordered, Tagged, WithSource, as_transform

    sources = group_sources(cfg, where) if sources is None else list(sources)
    block = _block_size(cfg, rows, where)
    weights = _weights(cfg, sources, weights, where)
    shuffles = _shuffles(cfg, len(sources), where)
    transform = as_transform(cfg["transform"], f"{where}.transform")
    guarded = _guard(sources, where)
    _check_rows(guarded, transform, block, where)
    parts = []
    for i, source in enumerate(guarded):
        shuffle_seed = _seed(seed, "shuffle", i, source.name)
        if len(source) > MAX_TABLE and shuffles[i] is None:
            once = grain.MapDataset.source(Tagged(source, i)).shuffle(seed=shuffle_seed)
            parts.append(once.repeat())
        else:
            parts.append(Ordered(source, i, _order(source, shuffle_seed, shuffles[i])))
    mixed = grain.MapDataset.mix(parts, weights=weights) if len(parts) > 1 else parts[0]
    made = mixed.random_map(WithSource(transform), seed=_seed(seed, "transform"))
    return Batched(made, block, rows, where)


def most_rows(weights: Sequence[float], batch_size: int, blocks: int = 1) -> list[int]:
    """Per source, the largest number of its rows in any of `blocks` equal contiguous parts of any batch.

    The numbers are exact for the pattern in which Grain mixes these weights; its period is the sum of the weights as
    whole numbers. For periods above MAX_STARTS they are upper bounds. The bound of source i is at most i rows too high.
    """
    if batch_size % blocks:
        raise UserError(f"batch_size: {batch_size} does not divide into {blocks} parts")
    part = batch_size // blocks
    # The whole numbers that grain's mix computes from the weights.
    counts = [int(weight * (100 / min(weights))) for weight in weights]
    period = sum(counts)
    step = math.gcd(part, period)
    if period > MAX_STARTS:
        return _most_rows_bound(counts, part)
    starts = np.arange(0, period, step)
    most, left = [], period
    begin, end = starts, starts + part
    for count in counts:
        # Of the first k rows that earlier sources left over, so many go to later sources.
        rest = [k * (left - count) // left for k in (begin, end)]
        most.append(int((end - rest[1] - begin + rest[0]).max()))
        (begin, end), left = rest, left - count
    return most


def _most_rows_bound(counts: Sequence[int], part: int) -> list[int]:
    # floor(x + y) - floor(x) <= ceil(y), both for the rows that a source gets and for those that it leaves.
    most, left = [], sum(counts)
    for count in counts:
        most.append(-(-part * count // left))
        part, left = -(-part * (left - count) // left), left - count
    return most


def _seed(seed: int, *names: Any) -> int:
    # The seed is hashed, because Grain adds 1 to its shuffle seed each epoch: seeds 0 and 1 would share epochs.
    return zlib.crc32("/".join(map(str, (seed, *names))).encode())


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
    # A source that consists of files gives the number of records in each.
    shards = getattr(guarded.source, "shards", None) or [len(guarded)]
    return BlockOrder(shards, seed, **shuffle)


def _shuffles(cfg: Mapping[str, Any], count: int, where: str) -> list[dict[str, int] | None]:
    """The block shuffle of each source, or None for the full shuffle."""
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
    """Make one row of every source, so that a mistake shows here and not in a worker hours later."""
    from intern_jax.data.batches.datasets import form_text

    form: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    first = ""
    for i, source in enumerate(sources):
        name = f"{where}.sources[{i}] ({source.name})"
        if source.labels is not None and source.classes:
            check_labels(source.labels, len(source.classes), name)
        row = transform(source[0], np.random.default_rng(0))
        found = {field: (np.shape(value), np.asarray(value).dtype) for field, value in row.items()}
        if i == 0:
            form, first = found, source.name
        if found != form:
            field = next(f for f in [*form, *found] if form.get(f) != found.get(f))
            raise UserError(
                f"{name}/{field}: {form_text(found.get(field))}, '{first}' has"
                f" {form_text(form.get(field))}; put them in two groups, rows must be equal"
            )
    size = block * sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in form.values())
    if size > MAX_BATCH_BYTES:
        raise UserError(
            f"{where}.batch_size: {size / 2**30:.1f} GiB for {block} rows, above"
            f" {MAX_BATCH_BYTES >> 30} GiB; lower batch_size or the transform's size"
        )
