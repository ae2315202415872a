"""The record of one score: what it holds, how it is made, written, checked and read.

A record is one JSON file, or one of the "records" of a run's results.json. It holds the facts of its metric and of its
task family, so that a table needs no code of theirs. The JSON is strict: a number that is not finite is null, and null
is read as NaN. Records of version 1 hold no such facts; these come from the tables of metrics and families.
"""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from intern_jax import families
from intern_jax.core import schema, strict_json
from intern_jax.core.config import UserError
from intern_jax.core.files import strict, write_json
from intern_jax.core.schema import Settings, field
from intern_jax.metrics import table as metrics
from intern_jax.metrics.table import Metric

VERSION = 2
OF_VERSION_1 = (
    "task",
    "metric",
    "method",
    "fraction",
    "seed",
    "score",
)  # fields by which such a record is known
REMEDY = "delete the file and run again"


def _finite(value: Any) -> Any:
    infinite = isinstance(value, float) and not math.isfinite(value)
    return math.nan if value is None or infinite else value


Number = Annotated[float, pydantic.BeforeValidator(_finite)]  # NaN where it is not known or finite


class Record(Settings):
    """One score of one head, or of one trained network, on one row of the benchmark.

    What was measured
      task, size         name of the row; side of its square canvas in pixels
      family             task family of the row; family_short: its name in a wide table, such as "CLS"
      metric             name of the metric; metric_title: as tables write it, such as "top-1"
      unit               of score, scores and standard_error: "%", "m", "" for none
      higher_is_better   which way is better
      digits             after the decimal point, where a table shows the score
    Of what
      method, head       name of the backbone or way of training; name of the head, "" where there is one alone
      fraction           share of the training labels, in (0, 1]
      seed, draw         seed of the backbone; number of the label draw
      split              "test", or "validation": held-out training labels, which no table of scores shows
    The result
      score              in the metric's unit; NaN where it was not finite
      standard_error     of the score over test images, in the metric's unit
      scores             {figure: value} of all figures of the metric, the score's own among them
      n_train, n_test    number of images that the head learnt from, and that it was scored on
      n_all_train        number of training images that the row has, of which `fraction` is taken
      whole_train, whole_test   numbers of images with which the row's published splits are whole
      outcomes           name of the file beside the record that says what became of each test image; "" for none
    What it follows from
      backbone           name of the backbone, or the spec of a network that was trained from random weights
      backbone_digest    of its arrays
      settings           of the head or the training
      data               {split: fingerprint} of the row's files; formats: {part of the code: its format number}
      test_digest, subset_digest   of the keys of the test images, and of the training images
      facts              what a head says of its fit, such as the settings that it chose
      config_digest      SHA-256 of all that the score depends on; the file's name has its first digits
      versions           {package: version} that computed it
      seconds            that it took
      record_version     format of this record
    """

    model_config = pydantic.ConfigDict(allow_inf_nan=True)

    record_version: int = VERSION
    task: str = field(say="the name of a row")
    family: str = field(say="the name of a task family")
    family_short: str = field(say="a text")
    metric: str = field(say="the name of a metric")
    metric_title: str = field(say="a text")
    unit: str = field(say="a text")
    higher_is_better: bool = field(say="true or false")
    digits: int = field(ge=0, le=15, say="a whole number of 0 to 15")
    method: str = field(say="a text")
    head: str = field("", say="a text")
    fraction: float = field(gt=0, le=1, say="a number in (0, 1]")
    seed: int = field(say="a whole number")
    draw: int = field(say="a whole number")
    split: str = field("test", say="a text")
    score: Number = field(say="a number, or null")
    standard_error: Number = field(math.nan, say="a number, or null")
    scores: dict[str, Number] = field({}, say="a group of numbers")
    n_train: int | None = field(None, say="a whole number, or null")
    n_test: int | None = field(None, say="a whole number, or null")
    n_all_train: int | None = field(None, say="a whole number, or null")
    whole_train: int | None = field(None, say="a whole number, or null")
    whole_test: int | None = field(None, say="a whole number, or null")
    outcomes: str = field("", say="a text")
    size: int | None = field(None, say="a whole number, or null")
    backbone: str | dict[str, Any] = field("", say="a text, or a group of fields")
    backbone_digest: str = field("", say="a text")
    settings: dict[str, Any] = field({}, say="a group of fields")
    data: dict[str, str] = field({}, say="a group of texts")
    formats: dict[str, int] = field({}, say="a group of whole numbers")
    test_digest: str = field("", say="a text")
    subset_digest: str = field("", say="a text")
    facts: dict[str, Any] = field({}, say="a group of fields")
    config_digest: str = field("", say="a text")
    versions: dict[str, str] = field({}, say="a group of texts")
    seconds: Number = field(math.nan, say="a number, or null")

    @property
    def measure(self) -> Metric:
        """The metric as its record has it: name, title, unit, direction and digits, without what computes it."""
        return Metric(
            self.metric, self.metric_title, self.unit, self.higher_is_better, digits=self.digits
        )

    def figure(self, name: str) -> float | None:
        """One of `scores`, the score itself for "", or None where the record has no such figure."""
        return self.scores.get(name) if name else self.score

    def plain(self) -> dict[str, Any]:
        """The record as strict JSON holds it."""
        return strict(self.model_dump())


# --- making and writing ---------------------------------------------------------------------------


def made(fields: Mapping[str, Any]) -> Record:
    """A new record from its fields; a name that is no field goes into `facts`.

    The facts of metric and family come from the tables, by `metric` (also a dotted name) and `family`. Raises
    UserError for a metric or family that is not known, and for a field of a wrong kind.
    """
    metric = metrics.find(fields["metric"])
    family = families.find(fields["family"])
    own = {"metric": metric.name, **_of_metric(metric), "family_short": family.short}
    return schema.read(Record, _sorted({**fields, **own}), "record")


def write(path: pathlib.Path, record: Record) -> None:
    """Replace the file `path` by the record in one move."""
    write_json(path, record.plain())


def _of_metric(metric: Metric) -> dict[str, Any]:
    return {
        "metric_title": metric.title,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "digits": metric.digits,
    }


def _sorted(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record, in which all others stand as `facts`."""
    own = {name: value for name, value in content.items() if name in Record.model_fields}
    others = {name: value for name, value in content.items() if name not in own}
    return {**own, "facts": {**own.get("facts", {}), **others}}


# --- reading --------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> Record:
    """The record in a file; UserError, one line with file, field and remedy, for anything else."""
    content, strict = _json(path, REMEDY)
    if not _is_record(content):
        raise UserError(f"{path}: no record of a score; {REMEDY}")
    return _parsed(content, strict, str(path), REMEDY)


def read_folder(folder: str | os.PathLike[str]) -> list[Record]:
    """All records in *.json below `folder`, the oldest file first; JSON that is no record is passed over.

    Raises UserError for a missing folder, and as `read` does.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a benchmark run makes it and its records")
    paths = [path for path in folder.rglob("*.json") if path.is_file()]
    records = []
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path)):
        content, strict = _json(path, REMEDY)
        if _is_record(content):
            records.append(_parsed(content, strict, str(path), REMEDY))
    return records


def read_run(path: str | os.PathLike[str]) -> list[Record]:
    """The records in a run's results.json. Raises UserError as `read` does."""
    remedy = "run again to write it anew"
    content, strict = _json(path, remedy)
    if not isinstance(content, dict) or not isinstance(content.get("records"), list):
        raise UserError(f"{path}: no list of records; {remedy}")
    return [
        _parsed(one, strict, f"{path}: records[{i}]", remedy)
        for i, one in enumerate(content["records"])
    ]


def _json(path: str | os.PathLike[str], remedy: str) -> tuple[Any, bool]:
    """A file's content, and whether it is strict JSON: NaN and Infinity, which version 1 wrote, are read as null."""
    try:
        text = pathlib.Path(path).read_bytes()
        try:
            return strict_json.parse(text), True
        except strict_json.NotFinite:
            return strict_json.parse_gaps(text), False
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {remedy}") from None


def _is_record(content: Any) -> bool:
    """Whether a file's content is a record, perhaps a damaged one; other JSON may lie beside records."""
    if not isinstance(content, dict) or "task" not in content:
        return False
    return "record_version" in content or all(name in content for name in OF_VERSION_1)


def _parsed(content: Any, strict: bool, where: str, remedy: str) -> Record:
    """The record of plain data of any version; `where` begins the line about a mistake, `remedy` ends it."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: no record of a score; {remedy}")
    version = content.get("record_version", 1)
    if type(version) is not int or not 1 <= version <= VERSION:
        raise UserError(
            f"{where}: record_version {version!r}, known: 1 to {VERSION}; update intern_jax, or {remedy}"
        )
    if version == 1:
        content = _from_version_1(content)
    elif not strict:
        raise UserError(f"{where}: NaN or Infinity, which strict JSON has not; {remedy}")
    try:
        return schema.read(Record, content, f"{where}: record")
    except UserError as error:
        raise UserError(f"{error} (or {remedy})") from None


def _from_version_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record of version 1 with the facts that it does not hold; what it does hold stays."""
    given = {name: v for name, v in content.items() if v is not None or name == "score"}
    facts: dict[str, Any] = {"record_version": VERSION}
    metric, family = given.get("metric"), given.get("family")
    if isinstance(metric, str):
        known = metrics.METRICS.get(metric)
        facts |= _of_metric(known) if known else {"metric_title": metric, "unit": "", "digits": 1}
    if isinstance(family, str):
        shorts = {one.name: one.short for one in families.known()}
        facts["family_short"] = shorts.get(family, family)
    if given.get("method") == "tune":  # a learning rate's score, on held-out training labels
        facts["split"] = "validation"
    return _sorted({**facts, **given, "record_version": VERSION})
