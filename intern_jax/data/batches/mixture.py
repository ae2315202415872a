"""The batches of a group as a pure function of their index: sources are mixed, transformed and stacked.

Every source is shuffled anew each epoch and repeated. The sources are then mixed in a fixed pattern
by weight (mix.py). The random generator of a transform is keyed by the row's global index. Only after
that this host's rows are selected. A batch therefore depends on (config, seed, stretches, index) alone,
and not on hosts, threads, processes or earlier reads. Stretches are the weights along the way (segments.py).

The config of a group:
  {"sources": [{"fn": "pkg.module:attr", "weight": 1.0, "shuffle": "full", **arguments of fn}, ...],
   "batch_size": rows over all hosts,
   "transform": {"fn": "intern_jax.data.make.views:classification", "size": 32, ...},
   "shuffle": the default of sources that set none,
   "temperature": T, by which a source's share is its weight times its number of samples to the power 1/T}
A source's fn may also return a grain.MapDataset of samples; the name, family, classes, keys and labels
that it lacks then stand beside fn. A transform's fn may be a grain.transforms.Map or RandomMap
(datasets.py). `shuffle` is "full" (the default) or {"block": records, "window": blocks}, which suits
records on remote storage (shuffle.py). A source may have `balance`, by which rare classes come more often
(balance.py), and `begin` and `end`, the training steps between which it is in the mixture (segments.py).
Rows have the transform's fields and `source`, the int32 position in `sources`.
"""

import functools
import threading
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.batches.balance import RepeatOrder, line_of
from intern_jax.data.batches.mix import Mix, Turns, shares
from intern_jax.data.batches.replacing import Replacing
from intern_jax.data.batches.segments import Stretches, Weights, timed_weights
from intern_jax.data.batches.shuffle import BlockOrder, Order, block_settings, full_order
from intern_jax.data.schema.sample import Transform, check_labels
from intern_jax.data.schema.source import Source, is_source, known_labels

if TYPE_CHECKING:
    from intern_jax.data.batches.datasets import Batched

# Raise it when the same settings give other batches of several sources.
FORMAT = 2
# A larger batch per host is taken for a mistake in batch_size or size.
MAX_BATCH_BYTES = 4 << 30

# The fields of a source's spec that are not arguments of its function.
SPEC_FIELDS = ("weight", "shuffle", "begin", "end", "balance")
# The weights of all batches: those of the config.
PLAIN: Stretches = ((0, None),)

Batch = dict[str, dict[str, np.ndarray]]


class Groups:
    """The groups of a run with open sources; a batch is {group: {field: [rows of this host, ...]}}.

    `groups` maps a name to a group's config, or to ready batches by index, which depend on neither
    seed nor weights. `rows` = (h, H) selects block h of the H contiguous blocks of every batch.
    UserError for settings or sources that cannot work.
    """

    def __init__(self, groups: Mapping[str, Any], rows: tuple[int, int] = (0, 1)):
        self._groups, self._rows = dict(groups), rows
        self._opened = {
            name: OpenGroup(cfg, rows=rows, where=name)
            for name, cfg in self._groups.items()
            if _is_config(cfg)
        }
        self.sources = {name: opened.sources for name, opened in self._opened.items()}
        self.ready = sorted(set(self._groups) - set(self.sources))
        self._lock = threading.Lock()
        # Two segments are in use around the step where one ends; more at once are rare.
        self._datasets = functools.lru_cache(maxsize=4)(self._make_datasets)

    def batch(self, seed: int, stretches: Stretches, index: int) -> Batch:
        """The batch at an index of the mixture with this seed and these weights; thread-safe."""
        return {name: batches[index] for name, batches in self.prepare(seed, stretches).items()}

    def prepare(self, seed: int, stretches: Stretches = PLAIN) -> Mapping[str, Any]:
        """The batches of each group by index, after a check: UserError for what cannot work."""
        key = tuple(
            (first, tuple((name, tuple(given)) for name, given in sorted((weights or {}).items())))
            for first, weights in stretches
        )
        with self._lock:
            return self._datasets(seed, key)

    def check(self, weights: Weights | None) -> None:
        """UserError for weights with which a group cannot be mixed."""
        for name, opened in self._opened.items():
            opened.mix((weights or {}).get(name))

    def faults(self) -> Counter[str]:
        """The number of damaged reads so far, by "source: cause", in groups that have a config."""
        total: Counter[str] = Counter()
        for opened in self._opened.values():
            for source in opened.guarded:
                for cause, count in source.faults().items():
                    total[f"{source.name}: {cause}"] += count
        return total

    def _make_datasets(self, seed: int, key: tuple) -> dict[str, Any]:
        return {
            name: self._opened[name].batches(seed, [(n, dict(given).get(name)) for n, given in key])
            if name in self._opened
            else cfg
            if self._rows[1] == 1
            else _Block(cfg, self._rows)
            for name, cfg in self._groups.items()
        }


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
        if not is_source(source):
            raise UserError(
                f"{where}.sources[{i}].fn: {spec['fn']} gave {type(source).__name__}, not a source;"
                " return one with name, family, classes, keys, labels, len() and [index], or a"
                " grain.MapDataset of samples"
            )
        opened.append(source)
    return opened


class OpenGroup:
    """A group with open sources, whose rows were checked; `batches` gives its batches by seed and weights.

    `sources` replace those of the config. `rows` = (h, H) selects block h of the H contiguous blocks
    of every batch. `cfg["transform"]` may also be a callable or an object of grain.transforms.
    UserError for settings that cannot work, and for sources whose first sample or labels break the
    schema.
    """

    def __init__(
        self,
        cfg: Mapping[str, Any],
        sources: Sequence[Source] | None = None,
        rows: tuple[int, int] = (0, 1),
        where: str = "group",
    ):
        from intern_jax.data.batches.datasets import as_transform

        self.cfg, self.where, self._rows = cfg, where, rows
        self.sources = group_sources(cfg, where) if sources is None else list(sources)
        self._block = _block_size(cfg, rows, where)
        specs = cfg.get("sources") or []
        self._specs = specs if len(specs) == len(self.sources) else [{}] * len(self.sources)
        self._given = [spec.get("weight", 1.0) for spec in self._specs]
        self._mix = functools.lru_cache(maxsize=16)(self._make_mix)
        self.mix()
        self._shuffles = _shuffles(cfg, self._specs, where)
        self._transform = as_transform(cfg["transform"], f"{where}.transform")
        self.guarded = _guard(self.sources, where)
        _check_rows(self.guarded, self._transform, self._block, where)
        self._lines = [
            line_of(source, spec["balance"], f"{where}.sources[{i}]")
            if spec.get("balance")
            else None
            for i, (source, spec) in enumerate(zip(self.guarded, self._specs, strict=True))
        ]
        # A change of weights keeps the seed, and with it the tables of the orders.
        self._orders = functools.lru_cache(maxsize=2)(self._make_orders)

    def batches(
        self, seed: int, stretches: Sequence[tuple[int, Sequence[float] | None]] = ((0, None),)
    ) -> "Batched":
        """An endless grain.MapDataset of batches: item i is batch i, {field: [rows of this host, ...]}.

        `stretches` are (first batch, one weight per source); None takes the config's weights. A weight
        of 0 leaves a source out. Each source goes on from one stretch to the next in its own order.
        """
        from intern_jax.data.batches import datasets
        from intern_jax.data.batches.datasets import Batched, Mixed, WithSource

        parts = self._orders(seed)
        mixed = Mixed(parts, self._turns(stretches)) if len(parts) > 1 else parts[0]
        transform: Any = WithSource(self._transform)
        reduction = datasets.reduction_of(self._transform)
        if reduction is not None:
            mixed, transform = datasets.Later(mixed), datasets.Reading(transform, reduction)
        made = mixed.random_map(transform, seed=_seed(seed, "transform"))
        return Batched(made, self._block, self._rows, self.where)

    def mix(self, weights: Sequence[float] | None = None) -> Mix:
        """The mix by these weights, one per source; None takes the config's. UserError if there is none."""
        if weights is None:
            given = _weights(self._given, self.sources, self.where)
        else:
            given = _weights(weights, self.sources, self.where, least=0.0)
        return self._mix(tuple(given))

    def _make_mix(self, weights: tuple[float, ...]) -> Mix:
        lengths = list(map(len, self.sources))
        return Mix(shares(weights, lengths, self.cfg.get("temperature")), self.where)

    def _turns(self, stretches: Sequence[tuple[int, Sequence[float] | None]]) -> Turns:
        mixes: list[tuple[int, Mix]] = []
        for first, weights in stretches:
            mix = self.mix(weights)
            # Weights of another group that change at this batch leave this group's rows as they are.
            if not mixes or mix != mixes[-1][1]:
                mixes.append((first * self.cfg["batch_size"], mix))
        return Turns(mixes)

    def _make_orders(self, seed: int) -> list[Any]:
        """Each source as a MapDataset of samples without end. Its order depends on its name, and not on the others."""
        from intern_jax.data.batches.datasets import Ordered

        parts: list[Any] = []
        same: Counter[str] = Counter()  # sources of one name so far
        for i, source in enumerate(self.guarded):
            own, line = _seed(seed, "shuffle", same[source.name], source.name), self._lines[i]
            same[source.name] += 1
            if line is not None:
                parts.append(Ordered(source, i, RepeatOrder(line[0], own, line[1])))
            else:
                parts.append(Ordered(source, i, _order(source, own, self._shuffles[i])))
        return parts


def build_group(
    cfg: Mapping[str, Any],
    seed: int,
    sources: Sequence[Source] | None = None,
    rows: tuple[int, int] = (0, 1),
    where: str = "group",
) -> "Batched":
    """The batches of a group by the config's weights; arguments and errors as of `OpenGroup`."""
    return OpenGroup(cfg, sources, rows, where).batches(seed)


def group_most_rows(
    cfg: Mapping[str, Any], lengths: Sequence[int], blocks: int = 1, where: str = "group"
) -> list[int]:
    """Per source, the largest number of its rows in any of `blocks` equal contiguous parts of any batch of a run.

    `cfg` is a group's checked config, and `lengths` are its sources' numbers of samples, on which the shares depend if
    it has a temperature. All weights count that the sources' `begin` and `end` bring. The numbers are exact where a
    mixture has a short period, and otherwise upper bounds (`Mix.most`).
    """
    size, temperature = cfg["batch_size"], cfg.get("temperature")
    if size % blocks:
        raise UserError(f"{where}.batch_size: {size} does not divide into {blocks} parts")
    timed = timed_weights(cfg["sources"], f"{where}.sources")
    mixes = [Mix(shares(weights, lengths, temperature), where) for _, weights in timed]
    return np.max([mix.most(size // blocks) for mix in mixes], axis=0).tolist()


def _seed(seed: int, *names: Any) -> int:
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
        return full_order(len(guarded), seed)
    # A source that consists of files gives the number of records in each.
    shards = getattr(guarded.source, "shards", None) or [len(guarded)]
    return BlockOrder(shards, seed, **shuffle)


def _shuffles(
    cfg: Mapping[str, Any], specs: Sequence[Mapping[str, Any]], where: str
) -> list[dict[str, int] | None]:
    """The block shuffle of each source, or None for the full shuffle."""
    default = cfg.get("shuffle")
    found = [
        block_settings(spec.get("shuffle", default), f"{where}.sources[{i}]")
        for i, spec in enumerate(specs)
    ]
    for i, (shuffle, spec) in enumerate(zip(found, specs, strict=True)):
        if shuffle is not None and spec.get("balance"):
            raise UserError(
                f"{where}.sources[{i}].shuffle: {shuffle}; a source with balance is read in any"
                " order, so write 'full'"
            )
    return found


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
    weights: Sequence[float], sources: Sequence[Source], where: str, least: float | None = None
) -> list[float]:
    """One weight per source that has samples: above 0, or of at least `least`; else UserError."""
    if len(weights) != len(sources):
        raise UserError(
            f"{where}.weights: {len(weights)} for {len(sources)} sources; give one for each"
        )
    for i, (weight, source) in enumerate(zip(weights, sources, strict=True)):
        if not (0 < weight < float("inf") or weight == least):
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
        labels = known_labels(source.source)
        if labels is not None and source.classes:
            check_labels(labels, len(source.classes), name)
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
