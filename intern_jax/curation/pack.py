"""Step `pack`: any source of data into a pool, each picture decoded once.

While a picture is in memory its facts are taken (look.py), it is made smaller if asked, and written as WebP. What
cannot be read is left out, counted by cause, and listed with its key in the part's faults.
"""

import functools
import io
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np
from PIL import Image

from intern_jax.core.config import UserError, bind, formatted, plain
from intern_jax.core.files import write_json
from intern_jax.curation.pictures import look
from intern_jax.curation.pictures.look import FACTS, facts
from intern_jax.curation.running import engine
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample, Sample, fault_of
from intern_jax.data.sources import array_record, pool
from intern_jax.data.sources.pool import Pool

PER_PART = 5_000
WRITER = "group_size:1"
IGNORED = 255  # in a mask
MAX_SIDE = 16_383  # of a WebP


@formatted(1)
def pack(
    source: Mapping[str, Any],
    out: str | os.PathLike[str],
    name: str | None = None,
    side: int | None = None,
    quality: int = 90,
    per_part: int = PER_PART,
    licence: str | None = None,
    author: str | None = None,
    runner: engine.Runner | None = None,
) -> Pool:
    """Write the samples of a source into the pool folder `out`, and return the pool.

    `source`: {"fn": "module:function", **arguments}, which each process opens for itself. `side`: pictures are made
    smaller until their longer side has as many pixels, their boxes, masks and depth with them. `quality` of WebP: 1 to
    100, or 101 for lossless. `licence`, `author`: of records whose source says none.
    A run that was stopped goes on. Other settings or another source in the same folder are refused.
    """
    out = pathlib.Path(out)
    plain(source)
    opened = bind(source)()
    if not len(opened):
        raise UserError(f"{opened.name}: no samples; nothing to pack")
    settings: dict[str, Any] = {
        "side": side,
        "quality": quality,
        "per_part": per_part,
        "licence": licence,
        "author": author,
    }
    print_ = fingerprints.fingerprint(opened)
    made = {"source": plain(source), "fingerprint": print_, **settings, "format": look.FORMAT}
    there = (out / pool.MANIFEST).is_file() or any(out.glob(f"{pool.JOB}-*.json"))
    engine.claim(out, made, "pool", "a pool of other settings or another source", there)
    count = len(list(engine.numbers(len(opened), per_part)))
    spec = json.dumps(source, sort_keys=True)
    _OPENED[spec, print_] = opened
    make = functools.partial(_part, source=spec, fingerprint=print_, **settings)
    job = engine.Each(pool.JOB, count, make)
    (runner or engine.Local()).run(job, out)
    _write_manifest(out, opened, name or opened.name, count, made)
    return Pool(out)


_OPENED: dict[tuple[str, str], Any] = {}


def _open(spec: str, fingerprint: str) -> Any:
    """The source, opened once per process as long as it holds the same."""
    if (spec, fingerprint) not in _OPENED:
        _OPENED.clear()
        _OPENED[spec, fingerprint] = bind(json.loads(spec))()
    return _OPENED[spec, fingerprint]


def _part(
    number: int,
    folder: pathlib.Path,
    source: str,
    fingerprint: str,
    side: int | None,
    quality: int,
    per_part: int,
    licence: str | None,
    author: str | None,
) -> engine.Counts:
    from array_record.python.array_record_module import ArrayRecordWriter

    opened = _open(source, fingerprint)
    wanted = range(number * per_part, min((number + 1) * per_part, len(opened)))
    counts: Counter[str] = Counter({"read": len(wanted), "records": 0})
    seen = np.zeros(len(wanted), FACTS)
    labels: list[int] = []
    keys: list[bytes] = []
    defaults = {k: v for k, v in (("licence", licence), ("author", author)) if v}
    writer = ArrayRecordWriter(str(folder / "records.array_record"), WRITER)
    with (
        open(folder / "words.msgpack", "wb") as words,
        open(folder / "faults.jsonl", "w") as faults,
    ):
        for index in wanted:
            try:
                sample = _read(opened, index)
                seen[len(keys)] = facts(sample["image"])
                record = pool.encode(*_shrunk(sample, side, quality))
            except CorruptSample as fault:
                counts[fault.cause] += 1
                entry = {"index": index, "where": fault.where, "cause": str(fault)}
                faults.write(json.dumps(entry) + "\n")
                continue
            writer.write(record)
            words.write(msgpack.packb(_words(opened, index, sample, defaults)))
            keys.append(sample["key"].encode())
            labels.append(sample.get("label", -1))
    writer.close()
    _check_written(folder / "records.array_record", len(keys))
    np.save(folder / "facts.npy", seen[: len(keys)], allow_pickle=False)
    np.save(folder / "keys.npy", np.array(keys or [b""], "S")[: len(keys)], allow_pickle=False)
    np.save(folder / "labels.npy", np.asarray(labels, np.int32), allow_pickle=False)
    counts["records"] = len(keys)
    return counts


def _check_written(path: pathlib.Path, count: int) -> None:
    """Raise OSError unless the file holds all records: a writer on a full disk may end without a word."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), options=array_record.READER_OPTIONS)
    found = reader.num_records()
    reader.close()
    if found != count:
        raise OSError(f"{path}: {found} of {count} records were written")


def _read(source: Any, index: int) -> Sample:
    """The sample, whole and by the schema. Raises CorruptSample; a source's other errors are its own faults."""
    sample = source[index]
    fault = fault_of(sample, str(sample.get("key", index)), len(source.classes) or None)
    if fault is not None:
        raise fault
    return sample


def _words(source: Any, index: int, sample: Sample, defaults: Mapping[str, str]) -> dict[str, Any]:
    given: Callable[[int], Mapping[str, str]] | None = getattr(source, "origin", None)
    origin = {"source": source.name, **defaults, **({} if given is None else given(index))}
    out = {"key": sample["key"], "texts": sample.get("texts", []), **origin}
    categories = getattr(source, "categories", None)
    if categories is not None:
        out["categories"] = list(categories(index))
    if "label" in sample:
        out["label"] = int(sample["label"])
    if source.classes:
        out["classes"] = sorted({source.classes[i] for i in _class_numbers(sample)})
    return out


def _class_numbers(sample: Sample) -> set[int]:
    """The classes that a sample has anywhere: label, boxes, mask."""
    found = {int(sample["label"])} if "label" in sample else set()
    found |= {int(i) for i in sample.get("box_labels", ())}
    return (
        found | {int(i) for i in np.unique(sample["mask"]) if i != IGNORED}
        if "mask" in sample
        else found
    )


def _shrunk(sample: Sample, side: int | None, quality: int) -> tuple[Sample, list[bytes]]:
    """The sample with its arrays at the new size, and its pictures as WebP."""
    height, width = sample["image"].shape[:2]
    scale = min(1.0, (side or MAX_SIDE) / max(height, width))
    if scale < 1.0:
        sample = _resized(sample, scale)
    pictures = [sample["image"], *sample.get("views", ())]
    return sample, [_webp(_smaller(picture, side), quality) for picture in pictures]


def _resized(sample: Sample, scale: float) -> Sample:
    """Boxes scaled; mask, depth and its validity by nearest pixel, so that no value is invented."""
    height, width = (max(1, round(n * scale)) for n in sample["image"].shape[:2])
    rows = (np.arange(height) + 0.5) * sample["image"].shape[0] / height
    cols = (np.arange(width) + 0.5) * sample["image"].shape[1] / width
    nearest = np.ix_(rows.astype(int), cols.astype(int))
    maps = [name for name in ("mask", "depth", "depth_valid") if name in sample]
    changed: Sample = {name: sample[name][nearest] for name in maps}
    if "boxes" in sample:
        across, down = width / sample["image"].shape[1], height / sample["image"].shape[0]
        changed["boxes"] = sample["boxes"] * np.asarray([across, down, across, down], np.float32)
    return {**sample, **changed}


def _smaller(picture: np.ndarray, side: int | None) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = min(1.0, (side or MAX_SIDE) / max(height, width))
    if scale == 1.0:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    mode = "RGBA" if picture.shape[2] == 4 else "RGB"
    # Pillow weighs the colours of RGBA by alpha only if told: in the mode RGBa.
    image = Image.fromarray(picture, mode)
    if mode == "RGBA":
        return np.asarray(
            image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
        )
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _webp(picture: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(picture)
    if quality > 100:
        image.save(file, "WEBP", lossless=True, quality=50, method=4, exact=True)
    else:
        image.save(file, "WEBP", quality=quality, method=2, alpha_quality=100)
    return file.getvalue()


def _write_manifest(
    out: pathlib.Path, source: Any, name: str, count: int, made: Mapping[str, Any]
) -> None:
    parts = [engine.part_counts(out, pool.JOB, n) for n in range(count)]
    counts = engine.total(out, pool.JOB, count)
    files = {}
    licences: Counter[str] = Counter()
    for n, part in enumerate(parts):
        assert part is not None  # engine.total has read it
        entry = part["files"]["records.array_record"]
        path = engine.part_path(out, pool.JOB, n, "records.array_record")
        files[path.name] = {"records": part["counts"]["records"], **entry}
        with open(engine.part_path(out, pool.JOB, n, "words.msgpack"), "rb") as file:
            licences.update(w.get("licence", "not given") for w in msgpack.Unpacker(file))
    write_json(out / array_record.MANIFEST, files)
    digests = [sorted((s, f["sha256"]) for s, f in p["files"].items()) for p in parts if p]
    content = {
        "format": pool.FORMAT,
        "name": name,
        "family": source.family,
        "classes": list(source.classes),
        "labelled": source.labels is not None,
        "parts": [part["counts"]["records"] for part in parts if part],
        "counts": dict(sorted(counts.items())),
        "licences": dict(sorted(licences.items())),
        "digest": fingerprints.combine(name, source.family, source.classes, digests),
        "made": made,
    }
    write_json(out / pool.MANIFEST, content)
