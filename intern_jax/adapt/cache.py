"""The outputs of a frozen backbone for every sample of a source, computed once and kept on disk.

A cache is a folder named by a digest of all that its values depend on; meta.json lists them. They are the backbone
(name, arrays, spec, normalisation), the transform and its format number, the source's fingerprint, the outputs, and the
format number of this file. The folder holds shards of 4,096 rows: a <field>-<number>.npy per field, and a <number>.json
with their digests. The JSON is written last, so a killed run resumes at the first shard without one.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.data.schema.source import Source, read_scored
from intern_jax.models import zoo
from intern_jax.weights.model import Model

log = logging.getLogger(__name__)

FORMAT = 1  # raise it when the same backbone, transform and source give other values
SHARD = 4096
REPORT_SECONDS = 30.0
# Maps are large and only read by a head that is trained, so half the bytes suffice.
DTYPES = {"cls": np.float32, "dense": np.float16}

Rows = dict[str, np.ndarray]


def cached(
    backbone: Model,
    source: Source,
    transform: Mapping[str, Any],
    *,
    branch: str,
    outputs: tuple[str, ...],
    mesh: jax.sharding.Mesh,
    folder: str | os.PathLike | None = None,
    batch_size: int = 128,
) -> Rows:
    """The `outputs` of the backbone, and the transform's other fields, for all samples in the source's order: [N,...].

    `transform` is the spec of a transform that makes an "image", uint8 [S,S,3]; its other fields (label, mask, depth,
    depth_valid) are returned unchanged. `branch` is one of the backbone: "cls" (float32) or "dense" (float16). Threads
    read pictures while the device computes. Batches are sharded over the mesh's data axes; the last one is padded, and
    none is larger than the source needs. With `folder`, values are read from a cache below it, or written to one; a
    damaged shard is computed again.

    UserError for no samples, values that are not finite, and a corrupt sample: a scored set must be whole. UserError
    for a mesh of several processes too: one process caches, on a mesh of its own devices.
    """
    if branch not in DTYPES:
        raise UserError(f"branch: no '{branch}'; a backbone's are {', '.join(DTYPES)}")
    if not len(source):
        raise UserError(f"{source.name}: no samples; nothing to extract")
    if mesh.is_multi_process:
        raise UserError("mesh: spans processes; cache features on a mesh of one process's devices")
    store = None
    if folder is not None:
        store = _Store(pathlib.Path(folder), key(backbone, source, transform, branch, outputs))
    spans = [slice(i, min(i + SHARD, len(source))) for i in range(0, len(source), SHARD)]
    with _Extractor(backbone, source, transform, branch, outputs, mesh, batch_size) as extractor:
        return _whole(len(source), spans, lambda span: _shard(store, extractor, span))


def key(
    backbone: Model,
    source: Source,
    transform: Mapping[str, Any],
    branch: str,
    outputs: tuple[str, ...],
) -> dict[str, Any]:
    """All that a cache's values depend on, as plain data; its digest is the name of the cache's folder."""
    return {
        "backbone": {
            "name": backbone.name,
            "digest": backbone.digest,
            "spec": config_lib.plain(backbone.spec),
            "mean": list(backbone.preprocess.mean),
            "std": list(backbone.preprocess.std),
        },
        "transform": config_lib.plain(transform),
        "source": {
            "name": source.name,
            "count": len(source),
            "fingerprint": fingerprint(source),
        },
        "task": branch,
        "outputs": list(outputs),
        "dtype": np.dtype(DTYPES[branch]).name,
        "formats": {
            "cache": FORMAT,
            "transform": config_lib.format_of(config_lib.bind(transform)),
            "networks": zoo.FORMAT,
            **config_lib.formats_in(config_lib.plain(backbone.spec)),
        },
    }


def _digest(array: np.ndarray) -> str:
    total = hashlib.sha256(f"{array.dtype} {array.shape}\n".encode())
    total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def _shard(store: "_Store | None", extractor: "_Extractor", span: slice) -> Rows:
    if store is None:
        return extractor(span)
    found = store.read(span)
    if found is None:
        found = extractor(span)
        store.write(span, found)
    return found


def _whole(count: int, spans: list[slice], shard: Callable[[slice], Rows]) -> Rows:
    """All shards joined; a single shard is returned as it is (a memory map, if it was read)."""
    first = shard(spans[0])
    if len(spans) == 1:
        return first
    out = {name: np.empty((count, *value.shape[1:]), value.dtype) for name, value in first.items()}
    for span in spans:
        for name, value in (shard(span) if span.start else first).items():
            out[name][span] = value
    return out


class _Store:
    """The shards of one cache."""

    def __init__(self, folder: pathlib.Path, key: Mapping[str, Any]):
        self.folder = folder / config_lib.digest(key)[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "meta.json", key)

    def read(self, span: slice) -> Rows | None:
        """The fields of a shard as memory maps; None if the shard is missing or damaged."""
        record = self._record(span)
        if not record.exists():
            return None
        try:
            fields = json.loads(record.read_text())
            return {name: self._field(span, name, digest) for name, digest in fields.items()}
        except (ValueError, OSError, AttributeError) as fault:
            log.warning("%s: damaged (%s); computed again", record, fault)
            return None

    def _field(self, span: slice, name: str, digest: str) -> np.ndarray:
        value = np.load(self._path(span, name), mmap_mode="r", allow_pickle=False)
        if _digest(value) != digest:
            raise ValueError(f"{name} is not what was written")
        return value

    def write(self, span: slice, rows: Rows) -> None:
        """Write the fields, then the JSON record that completes the shard; each file is written atomically."""
        for name, value in rows.items():
            path = self._path(span, name)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            with temporary.open("wb") as file:
                np.save(file, value, allow_pickle=False)
            os.replace(temporary, path)
        write_json(self._record(span), {name: _digest(value) for name, value in rows.items()})

    def _record(self, span: slice) -> pathlib.Path:
        return self.folder / f"{span.start // SHARD:05d}.json"

    def _path(self, span: slice, name: str) -> pathlib.Path:
        return self.folder / f"{name}-{span.start // SHARD:05d}.npy"


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

    def __call__(self, span: slice) -> Rows:
        """The outputs and other fields of the rows of one span."""
        out: Rows = {}
        # A batch is dispatched before the previous one is fetched, so the device is never idle.
        waiting: tuple[_Batch, dict[str, jax.Array]] | None = None
        for batch in self._read(span):
            made = self._features(batch.rows.pop("image"))
            if waiting is not None:
                self._keep(out, span, *waiting)
            waiting = batch, made
        if waiting is not None:
            self._keep(out, span, *waiting)
        return out

    def _read(self, span: slice) -> Iterator["_Batch"]:
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

    def _features(self, images: np.ndarray) -> dict[str, jax.Array]:
        missing = self.batch - len(images)
        images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        images = mesh_lib.put_batch(self.mesh, images)
        made = self.placed.outputs(images, self.branch, self.outputs)
        return {name: value.astype(DTYPES[self.branch]) for name, value in made.items()}

    def _keep(self, out: Rows, span: slice, batch: "_Batch", made: dict[str, jax.Array]) -> None:
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
