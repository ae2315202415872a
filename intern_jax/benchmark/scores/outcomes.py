"""The outcomes of a score: what became of each test image, in a file beside the score's record.

RECORD.npz holds `images`, the digest of the test images, and what the metric keeps: `statistics` [N,...], or for a
metric of boxes its named arrays as `boxes/NAME` and `count`, the number of images. Arrays have the smallest dtype that
holds them exactly. The file is written before RECORD.json, in one move. Intervals of gains need it. A record without
outcomes is shown like any other.
"""

import logging
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from intern_jax import families
from intern_jax.benchmark.scores.record import Record
from intern_jax.core.config import UserError
from intern_jax.metrics import table as metrics
from intern_jax.metrics.table import Metric, Outcomes

log = logging.getLogger(__name__)
REMEDY = "delete its record and run again"
FILE_NAME = r"[\w.+-]+\.npz"
BOXES = "boxes/"  # before the name of an array of a metric of boxes
SMALLEST = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.float32)


def images_of(record: Record) -> str:
    """What a record says of its test images: the digest of their keys, or the fingerprint of their files."""
    return record.test_digest or record.data.get("test", "")


def same_images(one: Record, other: Record) -> bool:
    """Whether two records were scored on the same test images; False where they do not say."""
    pairs = (
        (one.test_digest, other.test_digest),
        (one.data.get("test", ""), other.data.get("test", "")),
    )
    return one.n_test == other.n_test and any(a == b != "" for a, b in pairs)


def metric_of(record: Record) -> Metric | None:
    """The metric that made a record's outcomes, from the table or from the record's family; None for none known."""
    if record.metric in metrics.METRICS:
        return metrics.METRICS[record.metric]
    own = [one for one in families.known() if one.name == record.family]
    found = [metrics.find(name) for family in own for name in family.metrics]
    return next((metric for metric in found if metric.name == record.metric), None)


def compact(values: np.ndarray) -> np.ndarray:
    """The values in the smallest dtype that holds them exactly."""
    for kind in SMALLEST:
        # What does not fit comes out as another number, and is compared below.
        with np.errstate(invalid="ignore", over="ignore"):
            small = values.astype(kind)
        if np.array_equal(small.astype(values.dtype), values, equal_nan=kind is np.float32):
            return small
    return values


def write(path: pathlib.Path, record: Record, outcomes: Outcomes) -> Record:
    """Write a score's outcomes beside the record's future file `path`; returns the record that names them."""
    file = path.with_suffix(".npz")
    temporary = file.with_name(file.name + ".tmp")
    kept: dict[str, Any] = {"images": np.array(images_of(record))}
    if isinstance(outcomes, Mapping):
        kept |= {BOXES + name: _compact_or_bool(values) for name, values in outcomes.items()}
        kept["count"] = np.array(record.n_test)
    else:
        kept["statistics"] = compact(np.asarray(outcomes))
    with temporary.open("wb") as out:
        np.savez_compressed(out, **kept)
    os.replace(temporary, file)
    return record.model_copy(update={"outcomes": file.name})


def _compact_or_bool(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    return values if values.dtype == bool else compact(values)


def read(path: pathlib.Path, record: Record) -> Outcomes:
    """Statistics float64 [N,...], or named arrays, that give the record's score.

    UserError where the file does not fit the record.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            images = str(file["images"])
            if "statistics" in file.files:
                found: Outcomes = file["statistics"].astype(np.float64)
                count = len(found)
            else:
                names = [name for name in file.files if name.startswith(BOXES)]
                found = {name.removeprefix(BOXES): _wide(file[name]) for name in names}
                count = int(file["count"].item())
    except FileNotFoundError:
        raise UserError(f"{path}: is gone; {REMEDY}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged ({error}); {REMEDY}") from None
    if images != images_of(record) or count != record.n_test:
        raise UserError(f"{path}: is of other test images than its record; {REMEDY}")
    metric = metric_of(record)
    if metric is not None:
        _check_score(path, record, metric, found, count)
    return found


def _wide(values: np.ndarray) -> np.ndarray:
    """Whole numbers as int64: arithmetic in the dtype of the file would overflow."""
    return values.astype(np.int64) if np.issubdtype(values.dtype, np.integer) else values


def _check_score(
    path: pathlib.Path, record: Record, metric: Metric, found: Outcomes, count: int
) -> None:
    try:
        if isinstance(found, Mapping):
            score = metric.weighted_score(found, np.ones(count))
        else:
            score = float(metric.score_of(found.sum(axis=0)))
    except (LookupError, StopIteration, TypeError, ValueError, MemoryError, UserError):
        raise UserError(f"{path}: holds no outcomes of {metric.name}; {REMEDY}") from None
    if not np.isclose(score, record.score, rtol=1e-9, atol=1e-9, equal_nan=True):
        raise UserError(f"{path}: gives {score:g}, its record {record.score:g}; {REMEDY}")


class Store:
    """Finds the outcomes of records below some folders; `faults` has a line for each file that cannot be used."""

    def __init__(self, folders: Iterable[str | os.PathLike[str]]):
        self.folders = [pathlib.Path(folder) for folder in folders]
        self.faults: dict[str, str] = {}

    def of(self, record: Record) -> Outcomes | None:
        """The outcomes of a record; None where it keeps none or its file cannot be used."""
        if not record.outcomes or not self.folders:
            return None
        try:
            return read(self._path(record.outcomes), record)
        except UserError as fault:
            self.faults[record.outcomes] = str(fault)
            return None

    def _path(self, name: str) -> pathlib.Path:
        if not re.fullmatch(FILE_NAME, name):
            raise UserError(f"record.outcomes: {name!r} is no file beside a record; {REMEDY}")
        direct = [folder / name for folder in self.folders]
        deeper = (path for folder in self.folders for path in folder.rglob(name))
        return next((path for path in direct if path.is_file()), None) or next(deeper, direct[0])

    def warn(self) -> None:
        """One line on the files that could not be used, if there are any."""
        if self.faults:
            first = next(iter(self.faults.values()))
            more = f" (and {len(self.faults) - 1} more files)" if len(self.faults) > 1 else ""
            log.warning("%s%s; until then these scores have no paired interval", first, more)
