"""The outputs of a frozen backbone for every sample of a source, computed once per sample and kept.

What is kept is known by a digest of all that its values depend on but the samples: the backbone (arrays, spec,
normalisation), the transform, the outputs, and format numbers. Below that, a sample is known by its own digest
(data/schema/fingerprints.py). So another draw, fraction, split or picture of a report reads only what is new, and a
picture that was replaced under its name is read again.

On a disk each digest has a folder; meta.json lists what it is of. The folder holds shards of up to 4,096 samples: a
<field>-<shard>.npy per field, and a <shard>.json with the samples' digests and those of the fields. The JSON is written
last, so a killed run resumes at the first shard without one.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import logging
import math
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.source import Source, read_scored
from intern_jax.data.sources.subset import Subset
from intern_jax.models import zoo
from intern_jax.models.backbone import LAYERS
from intern_jax.models.heads import readout
from intern_jax.weights.model import Model

log = logging.getLogger(__name__)

FORMAT = 2  # raise it when the same backbone, transform and sample give other values
SHARD = 4096
REPORT_SECONDS = 30.0

Rows = dict[str, np.ndarray]


class Memory:
    """Keeps outputs in memory for as long as it lives, as a folder does on a disk.

    Above `most_bytes` it forgets what has been asked for least recently, but never the newest.
    """

    def __init__(self, most_bytes: int = 2**30):
        self.most_bytes = most_bytes
        self._stores: dict[str, _InMemory] = {}

    def store(self, key: Mapping[str, Any]) -> "_InMemory":
        """What is kept under the digest of `key`."""
        name = config_lib.digest(key)
        store = self._stores.pop(name) if name in self._stores else _InMemory()
        self._stores[name] = store  # the newest is last
        total = sum(one.nbytes for one in self._stores.values())
        while total > self.most_bytes and len(self._stores) > 1:
            total -= self._stores.pop(next(iter(self._stores))).nbytes
        return store


Kept = Memory | str | os.PathLike | None


def cached(
    backbone: Model,
    source: Source,
    transform: Mapping[str, Any],
    *,
    task: str,
    outputs: tuple[str, ...],
    mesh: jax.sharding.Mesh,
    kept: Kept = None,
    examples: Sequence[str] | None = None,
    batch_size: int = 128,
) -> Rows:
    """The `outputs` of the backbone, and the transform's other fields, for all samples in the source's order: [N,...].

    `transform` is the spec of a transform that makes an "image", uint8 [S,S,3]; its other fields (label, mask, depth,
    depth_valid) are returned unchanged. `task`: a family, or a branch of the backbone. `outputs`: names of outputs or
    readouts; maps are float16, vectors float32. Threads read pictures while the device computes. Batches are sharded
    over the mesh's data axes; the last one is padded, and none is larger than the samples need. `kept` is a folder, or
    a Memory: samples that are there are not read again, others are added; a damaged shard is computed again. `examples`
    are the digests of the samples (fingerprints.of_examples), for who has them: to make them may read every sample.

    UserError for no samples, values that are not finite, and a corrupt sample: a scored set must be whole. UserError
    for a mesh of several processes too: one process caches, on a mesh of its own devices. UserError before anything is
    read for a readout of a branch that the backbone lacks.
    """
    if not len(source):
        raise UserError(f"{source.name}: no samples; nothing to extract")
    if mesh.is_multi_process:
        raise UserError("mesh: spans processes; cache features on a mesh of one process's devices")
    branch = readout.check(backbone.build(), outputs, task)
    if kept is None:  # no sample's digest is needed
        with _Extractor(backbone, source, transform, branch, outputs, mesh, batch_size) as run:
            return run(range(len(source)))
    facts = key(backbone, transform, branch, outputs)
    examples = fingerprints.of_examples(source) if examples is None else examples
    store = kept.store(facts) if isinstance(kept, Memory) else _InFolder(pathlib.Path(kept), facts)
    place = {example: index for index, example in enumerate(examples)}
    missing = store.missing(place)
    chosen = Subset(source, [place[example] for example in missing])
    if missing:
        with _Extractor(backbone, chosen, transform, branch, outputs, mesh, batch_size) as run:
            for start in range(0, len(missing), SHARD):
                span = range(start, min(start + SHARD, len(missing)))
                store.add(missing[start : span.stop], run(span))
    return store.rows(examples)


def key(
    backbone: Model,
    transform: Mapping[str, Any],
    branch: str,
    outputs: tuple[str, ...],
) -> dict[str, Any]:
    """All that kept values depend on beside the samples, as plain data; its digest is the name of a folder."""
    return {
        "backbone": {
            "digest": backbone.digest,
            "spec": config_lib.plain(backbone.spec),
            "mean": list(backbone.preprocess.mean),
            "std": list(backbone.preprocess.std),
        },
        "transform": config_lib.plain(transform),
        "branch": branch,
        "outputs": list(outputs),
        "dtype": np.dtype(_dtype(outputs[0])).name,
        "formats": {
            "cache": FORMAT,
            "readout": readout.FORMAT,
            "transform": config_lib.format_of(config_lib.bind(transform)),
            "networks": zoo.FORMAT,
            **config_lib.formats_in(config_lib.plain(backbone.spec)),
        },
    }


def _dtype(output: str) -> type[np.floating]:
    # Maps are large and only read by a head that is trained, so half the bytes suffice.
    return np.float16 if output in LAYERS else np.float32


def _digest(array: np.ndarray) -> str:
    total = hashlib.sha256(f"{array.dtype} {array.shape}\n".encode())
    total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


# --- what is kept ---------------------------------------------------------------------------------


@dataclasses.dataclass
class _Shard:
    """The fields [n,...] of n samples, and the place of each sample by its digest."""

    places: dict[str, int]
    fields: Rows

    @classmethod
    def of(cls, examples: Sequence[str], fields: Rows) -> "_Shard":
        return cls({example: place for place, example in enumerate(examples)}, fields)


class _Shards:
    """Shards of one digest, and which of them a sample is in."""

    def __init__(self) -> None:
        self.shard_of: dict[str, _Shard] = {}

    def _know(self, shard: _Shard) -> None:
        self.shard_of |= dict.fromkeys(shard.places, shard)

    def missing(self, wanted: Iterable[str]) -> list[str]:
        """Those of the samples that are not kept, in their order."""
        return [example for example in wanted if example not in self.shard_of]

    def rows(self, examples: Sequence[str]) -> Rows:
        """The fields of the samples [N,...]; of exactly one shard they are returned as they are."""
        first = self.shard_of[examples[0]]
        if list(examples) == list(first.places):
            return first.fields
        out = {
            name: np.empty((len(examples), *value.shape[1:]), value.dtype)
            for name, value in first.fields.items()
        }
        by_shard: dict[int, tuple[_Shard, list[int]]] = {}
        for row, example in enumerate(examples):
            shard = self.shard_of[example]
            by_shard.setdefault(id(shard), (shard, []))[1].append(row)
        for shard, rows in by_shard.values():
            places = [shard.places[examples[row]] for row in rows]
            for name, value in shard.fields.items():
                out[name][rows] = value[places]
        return out


class _InMemory(_Shards):
    """What a Memory keeps under one digest."""

    nbytes = 0

    def add(self, examples: Sequence[str], rows: Rows) -> None:
        """Keep the fields of samples."""
        self._know(_Shard.of(examples, rows))
        self.nbytes += sum(value.nbytes for value in rows.values())


class _InFolder(_Shards):
    """The shards of one folder; they are read, and checked, when a sample of theirs is asked for."""

    def __init__(self, folder: pathlib.Path, key: Mapping[str, Any]):
        super().__init__()
        self.folder = folder / config_lib.digest(key)[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "meta.json", key)

    def missing(self, wanted: Iterable[str]) -> list[str]:
        """Those of the samples that are in no sound shard, in their order."""
        wanted = list(wanted)
        asked = set(wanted)
        for path in sorted(self.folder.glob("*.json")):
            if path.name != "meta.json":
                self._read(path, asked)
        return super().missing(wanted)

    def _read(self, path: pathlib.Path, asked: set[str]) -> None:
        """Open a shard if it has any of the samples."""
        try:
            record = strict_json.parse(path.read_bytes())
            examples, fields = record["examples"], record["fields"]
            if asked.isdisjoint(examples):
                return
            found = {name: self._field(path.stem, name, d) for name, d in fields.items()}
        except (ValueError, OSError, AttributeError, KeyError, TypeError) as fault:
            log.warning("%s: damaged (%s); computed again", path, fault)
            path.unlink(missing_ok=True)
            return
        self._know(_Shard.of(examples, found))

    def _field(self, shard: str, name: str, digest: str) -> np.ndarray:
        value = np.load(self._path(shard, name), mmap_mode="r", allow_pickle=False)
        if _digest(value) != digest:
            raise ValueError(f"{name} is not what was written")
        return value

    def add(self, examples: Sequence[str], rows: Rows) -> None:
        """Write the fields, then the JSON record that completes the shard; each file is written atomically."""
        shard = fingerprints.combine(examples)
        for name, value in rows.items():
            path = self._path(shard, name)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            with temporary.open("wb") as file:
                np.save(file, value, allow_pickle=False)
            os.replace(temporary, path)
        fields = {name: _digest(value) for name, value in rows.items()}
        write_json(self.folder / f"{shard}.json", {"examples": list(examples), "fields": fields})
        self._know(_Shard.of(examples, rows))

    def _path(self, shard: str, name: str) -> pathlib.Path:
        return self.folder / f"{name.replace('/', ':')}-{shard}.npy"


# --- computing ------------------------------------------------------------------------------------


class _Extractor:
    """Computes the outputs of spans of rows. It is a context manager, which ends its reading threads."""

    def __init__(self, backbone, source, transform, branch, outputs, mesh, batch_size):
        self.source, self.mesh, self.branch, self.outputs = source, mesh, branch, outputs
        self.transform = config_lib.bind(transform)
        self.backbone = backbone
        needed = 1 << (len(source) - 1).bit_length()
        parts = math.prod(mesh.shape[axis] for axis in mesh_lib.BATCH_AXES)
        self.batch = math.ceil(min(batch_size, needed) / parts) * parts
        self.done, self.reported = 0, time.monotonic()

    def __enter__(self) -> "_Extractor":
        self.threads = _cores()
        self.pool = concurrent.futures.ThreadPoolExecutor(self.threads)
        return self

    def __exit__(self, *_: Any) -> None:
        self.pool.shutdown(cancel_futures=True)

    @functools.cached_property
    def placed(self) -> Model:
        """The backbone, replicated on all devices of the mesh."""
        variables = jax.device_put(self.backbone.variables, mesh_lib.replicated(self.mesh))
        return dataclasses.replace(self.backbone, variables=variables)

    def __call__(self, span: range) -> Rows:
        """The outputs and other fields of the rows of one span."""
        out: Rows = {}
        # A batch is dispatched before the previous one is fetched, so the device is never idle.
        waiting: tuple[_Batch, dict[str, jax.Array]] | None = None
        for batch in self._read(span):
            made = self._features(batch.rows.pop("image"), batch.rows.get("extent"))
            if waiting is not None:
                self._keep(out, span, *waiting)
            waiting = batch, made
        if waiting is not None:
            self._keep(out, span, *waiting)
        return out

    def _read(self, span: range) -> Iterator["_Batch"]:
        ahead: collections.deque = collections.deque()
        for start in range(span.start, span.stop, self.batch):
            stop = min(start + self.batch, span.stop)
            ahead.append(self.pool.submit(self._batch, start, stop))
            if len(ahead) > self.threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _batch(self, start: int, stop: int) -> "_Batch":
        rows = [self._row(index) for index in range(start, stop)]
        return _Batch(start, stop, {name: np.stack([r[name] for r in rows]) for name in rows[0]})

    def _row(self, index: int) -> Rows:
        return self.transform(read_scored(self.source, index), np.random.default_rng(index))

    def _features(self, images: np.ndarray, extent: np.ndarray | None) -> dict[str, jax.Array]:
        missing = self.batch - len(images)
        given = [images] if extent is None else [images, extent]
        padded = [np.pad(one, ((0, missing), *[(0, 0)] * (one.ndim - 1))) for one in given]
        seen, *ends = (mesh_lib.put_batch(self.mesh, one) for one in padded)
        made = self.placed.outputs(seen, self.branch, self.outputs, *ends)
        return {name: value.astype(_dtype(name)) for name, value in made.items()}

    def _keep(self, out: Rows, span: range, batch: "_Batch", made: dict[str, jax.Array]) -> None:
        count = batch.stop - batch.start
        rows = batch.rows | {name: value[:count] for name, value in jax.device_get(made).items()}
        for name in self.outputs:
            if not np.isfinite(rows[name]).all():
                raise UserError(
                    f"{self.backbone.name}/{name}: not finite as {rows[name].dtype} on {self.source.name}; "
                    "the backbone's weights are broken or overflow"
                )
        for name, value in rows.items():
            if name not in out:
                length = span.stop - span.start
                out[name] = np.empty((length, *value.shape[1:]), value.dtype)
            out[name][batch.start - span.start : batch.stop - span.start] = value
        self._report(count, batch.stop)

    def _report(self, count: int, at: int) -> None:
        self.done += count
        passed = time.monotonic() - self.reported
        if passed >= REPORT_SECONDS:
            total, rate = len(self.source), self.done / passed
            log.info("%s: %d of %d pictures, %.0f per second", self.source.name, at, total, rate)
            self.done, self.reported = 0, time.monotonic()


@dataclasses.dataclass
class _Batch:
    """Rows start..stop of a source, stacked."""

    start: int
    stop: int
    rows: Rows


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
