"""A random-access source over TFDS data sets prepared as ArrayRecord, without TensorFlow."""

import contextlib
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from intern_jax import families
from intern_jax.core.config import UserError
from intern_jax.core.files import write_bytes
from intern_jax.data.read.decoding import decode_turned
from intern_jax.data.read.turning import stored_sides, turned_boxes, upright_map
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema import sample as schema
from intern_jax.data.schema.sample import Sample, check_labels, one_line
from intern_jax.data.schema.source import ClassSets, distinct
from intern_jax.data.sources.array_record import Keys

MAPS = ("mask", "depth", "depth_valid")  # fields that EXIF turns with the picture, as it does boxes


class TfdsSource:
    """A data set that tensorflow_datasets has prepared as ArrayRecord, read without TensorFlow.

    `fields` maps sample fields to feature paths, such as {"boxes": "objects/bbox"}; the default is
    those of DEFAULT_FIELDS that the data set has. Boxes become x1, y1, x2, y2 in pixels. Keys are the
    record's file and position, so a sub-split ("train[:50%]") has the same keys. `directory` is the
    folder of a prepared version, with dataset_info.json; it is then read without the builder code of
    `name`.
    """

    DEFAULT_FIELDS: Mapping[str, str] = {
        "image": "image",
        "label": "label",
        "mask": "segmentation_mask",
        "depth": "depth",
        "boxes": "objects/bbox",
        "box_labels": "objects/label",
        "box_ignore": "objects/is_difficult",
        "box_crowd": "objects/is_crowd",
    }

    def __init__(
        self,
        name: str,
        split: str,
        data_dir: str | os.PathLike[str] | None = None,
        fields: Mapping[str, str] | None = None,
        family: str = "classification",
        directory: str | os.PathLike[str] | None = None,
    ):
        import tensorflow_datasets as tfds

        families.find(family, f"{name}/family")
        known = schema.fields()
        for field in fields or {}:
            if field not in known:
                raise UserError(f"{name}/{field}: unknown field; known: {', '.join(known)}")
        builder = (
            _tfds_builder(tfds, name, data_dir)
            if directory is None
            else _tfds_directory(tfds, name, directory)
        )
        features = builder.info.features
        self.fields = dict(fields) if fields else _present(self.DEFAULT_FIELDS, features)
        for field, path in self.fields.items():
            if _feature(features, path) is None:
                raise UserError(
                    f"{name}/{field}: no feature '{path}'; there are {', '.join(features.keys())}"
                )
        if "image" not in self.fields:
            raise UserError(
                f"{name}/image: name the image feature in `fields`: {', '.join(features.keys())}"
            )
        # Pictures are decoded here, with our formats and pixel limit; tfds decodes everything else.
        image = self.fields["image"]
        # Other pictures, such as masks that are not in `fields`, are not decoded at all.
        skip = {
            path: tfds.decode.SkipDecoding()
            for path, feature in features.items()
            if path == image
            or (isinstance(feature, tfds.features.Image) and path not in self.fields.values())
        }
        self._builder, self._split, self._skip = builder, split, skip
        self._data = _tfds_open(builder, split, skip)
        self.name, self.family = builder.name, family
        labelled = _feature(
            features, self.fields.get("label") or self.fields.get("box_labels") or ""
        )
        self.classes = tuple(getattr(labelled, "names", None) or ())
        parts = builder.info.splits[split].file_instructions
        counts = [part.examples_in_shard if part.take == -1 else part.take for part in parts]
        # The file of a part, and what its first record is there less what it is here.
        self._parts = [
            (pathlib.PurePath(part.filename).name, part.skip - end + count)
            for part, count, end in zip(parts, counts, np.cumsum(counts), strict=True)
        ]
        self._ends = np.cumsum(counts)
        self.keys = Keys(int(sum(counts)), self._key)
        self._labels: np.ndarray | None = None

    def _key(self, index: int) -> str:
        file, shift = self._parts[int(np.searchsorted(self._ends, index, side="right"))]
        return f"{file}/{index + shift}"

    @property
    def labels(self) -> np.ndarray | None:
        """The labels of all samples, read from the records without decoding pictures.

        They are kept beside the records, if that folder can be written: one pass serves all processes and runs.
        """
        if "label" not in self.fields:
            return None
        if self._labels is None:
            self._labels = self._kept_labels()
            check_labels(self._labels, len(self.classes) or 1 << 31, self.name)
        return self._labels

    def _kept_labels(self) -> np.ndarray:
        path, split = self.fields["label"], self._builder.info.splits[self._split]
        parts = [part.filename for part in split.file_instructions]
        # Files that were written anew have another name here.
        of = fingerprints.combine(self._split, path, fingerprints.of_files(parts))
        kept = pathlib.Path(self._builder.data_dir) / f"labels-{of[:16]}.npy"
        with contextlib.suppress(OSError, ValueError):
            labels = np.load(kept, allow_pickle=False)
            if labels.dtype == np.int32 and labels.shape == (len(self),):
                return labels
        labels = np.asarray([_get(row, path) for row in self._data], np.int32)
        content = io.BytesIO()
        np.save(content, labels, allow_pickle=False)
        with contextlib.suppress(OSError):
            write_bytes(kept, content.getvalue())
        return labels

    def class_sets(self) -> ClassSets | None:
        """The classes of each record's boxes that are not ignored, read once without decoding pictures."""
        path = self.fields.get("box_labels")
        if path is None:
            return None
        ignored = [self.fields[n] for n in ("box_ignore", "box_crowd") if n in self.fields]

        def classes(row: Any) -> tuple[int, ...]:
            labels = np.asarray(_get(row, path), np.int32)
            left_out = [np.asarray(_get(row, one), np.bool_) for one in ignored]
            return distinct(labels[~np.logical_or.reduce([np.zeros(len(labels), bool), *left_out])])

        return [classes(row) for row in self._data]

    def columns(self, *paths: str) -> list[list[Any]]:
        """The values of small features (texts, labels) of all samples: one list per path.

        One pass over the records reads them and decodes no picture.
        """
        features = self._builder.info.features
        for path in paths:
            if _feature(features, path) is None:
                raise UserError(
                    f"{self.name}: no feature '{path}' in {', '.join(features.keys())}; prepare the"
                    " version that has it"
                )
        rows = [[_plain(_get(row, path)) for path in paths] for row in self._data]
        return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in paths]

    def __len__(self) -> int:
        return len(self._data)

    def fingerprint(self) -> str:
        """A digest of names, sizes and modification times of the record files, the split and the fields."""
        info = self._builder.info
        parts = info.splits[self._split].file_instructions
        return fingerprints.combine(
            *(self.name, info.full_name, self._split, sorted(self.fields.items())),
            # Keys follow from them, and are as many as there are records.
            *(part for place in self._parts for part in place),
            *self._ends.tolist(),
            fingerprints.of_files(part.filename for part in parts),
        )

    def __getitem__(self, index: int) -> Sample:
        key = self.keys[index]
        row = self._data[index]
        image, turn = decode_turned(bytes(_get(row, self.fields["image"])), key)
        sample: Sample = {"image": image, "key": key}
        sides = image.shape[:2]
        for field, path in self.fields.items():
            if field != "image":
                value = _convert(field, _get(row, path), stored_sides(turn, sides))
                if field in MAPS:
                    value = upright_map(value, turn, sides, f"{key}/{field}")
                sample[field] = turned_boxes(value, turn, sides) if field == "boxes" else value
        return sample


def _tfds_builder(tfds: Any, name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    recipe = (
        "prepare it once with: pip install 'intern_jax[tf]';"
        ' python -c "import tensorflow_datasets as tfds;'
        f" tfds.builder('{name}'{f', data_dir={str(data_dir)!r}' if data_dir else ''})"
        ".download_and_prepare(file_format='array_record')\""
    )
    try:
        builder = tfds.builder(name, data_dir=None if data_dir is None else os.fspath(data_dir))
    except Exception as error:
        raise UserError(
            f"{name}: no prepared TFDS data set of that name ({one_line(error)}); {recipe}"
        ) from error
    if not builder.is_prepared():
        raise UserError(f"{name}: not prepared in {builder.data_dir}; {recipe}")
    return builder


def _tfds_directory(tfds: Any, name: str, directory: str | os.PathLike[str]) -> Any:
    try:
        return tfds.builder_from_directory(os.fspath(directory))
    except Exception as error:
        raise UserError(
            f"{directory}: no prepared version of {name} ({one_line(error)}); prepare it again"
        ) from error


def _tfds_open(builder: Any, split: str, decoders: Mapping[str, Any]) -> Any:
    if split.split("[")[0] not in builder.info.splits:
        raise UserError(
            f"{builder.name}/split: no '{split}'; known: {', '.join(builder.info.splits)}"
        )
    try:
        return builder.as_data_source(split=split, decoders=decoders)
    except Exception as error:
        raise UserError(
            f"{builder.name}: cannot be read at random ({one_line(error)});"
            " prepare it again with file_format='array_record'"
        ) from error


def _feature(features: Any, path: str) -> Any:
    if hasattr(features, "keys") and path in features:
        return features[path]  # a name may have a slash in it
    for part in path.split("/"):
        features = getattr(features, "feature", features)
        if not hasattr(features, "keys") or part not in features:
            return None
        features = features[part]
    return features


def _present(fields: Mapping[str, str], features: Any) -> dict[str, str]:
    return {field: path for field, path in fields.items() if _feature(features, path) is not None}


def _get(row: Any, path: str) -> Any:
    if path in row:
        return row[path]
    for part in path.split("/"):
        row = row[part]
    return row


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else getattr(value, "item", lambda: value)()


def _convert(field: str, value: Any, size: tuple[int, int]) -> Any:
    if field == "label":
        return int(value)
    if field == "boxes":
        y1, x1, y2, x2 = np.asarray(value, np.float32).reshape(-1, 4).clip(0, 1).T
        height, width = size
        return np.stack([x1 * width, y1 * height, x2 * width, y2 * height], axis=1)
    if field == "texts":
        values = [value] if isinstance(value, (bytes, str)) else list(value)
        return [v.decode() if isinstance(v, bytes) else str(v) for v in values]
    dtype = {
        "mask": np.uint8,
        "depth": np.float32,
        "box_labels": np.int32,
        "depth_valid": np.bool_,
        "box_ignore": np.bool_,
        "box_crowd": np.bool_,
    }.get(field)
    if dtype is None:
        return value  # of a family from outside, whose check says what it takes
    value = np.asarray(value, dtype)
    return value[..., 0] if value.ndim == 3 else value
