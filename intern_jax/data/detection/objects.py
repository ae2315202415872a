"""The objects of pictures: what a source of detection offers beside its samples, and how a sample gets them.

`objects(index)` returns what an evaluator needs beyond the sample schema:

| key | value |
|---|---|
| boxes | float32 [N,4]: x1, y1, x2, y2 in pixels as annotated; may be empty or reach outside the picture |
| labels | int32 [N] |
| ignore | bool [N]: neither to be found, nor counted as a false alarm, nor learnt from |

A data set may add keys: `crowd` bool [N] of regions with several objects, `area` float32 [N] in square pixels. Before
they are turned as EXIF says, `declared` has the height and width that the annotation gives of its picture. A sample
has all boxes, cut to the picture, and `box_ignore`; boxes without any part in the picture are dropped.
Legend: N objects of a picture.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from intern_jax.data.read.annotations import picture_size
from intern_jax.data.read.decoding import decode_turned, orientation_of, read_file
from intern_jax.data.read.turning import applied, stored_sides, turned_boxes
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample, Sample, ignored_of
from intern_jax.data.schema.source import ClassSets, Source, distinct, read_scored
from intern_jax.data.sources.subset import Subset

Objects = dict[str, np.ndarray]
BOXES = ("boxes", "visible_boxes")  # keys of `objects` that turn with the picture
DECLARED = "declared"


@runtime_checkable
class DetectionSource(Source, Protocol):
    """A source of pictures with boxes that also has `objects` for evaluators."""

    def objects(self, index: int) -> Objects: ...


def objects_of(source: Any, index: int) -> Objects:
    """The objects of one sample: what the source, or the source of a subset, offers; else those of the sample."""
    if isinstance(source, Subset):
        return objects_of(source.source, int(source.indices[index]))
    if hasattr(source, "objects"):
        return source.objects(index)
    sample = read_scored(source, index)
    fields = {"boxes": sample["boxes"], "labels": sample["box_labels"]}
    return fields | {"ignore": ignored_of(sample)}


class PictureFiles:
    """Pictures in files with objects; the subclass of a data set implements `annotated`."""

    family = "detection"
    labels = None
    annotations: Sequence[pathlib.Path] = ()  # the files of the objects, where they are in files

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        keys: Sequence[str],
        pictures: Sequence[pathlib.Path],
    ):
        self.name, self.classes = name, tuple(classes)
        self.keys, self.pictures = keys, pictures

    def annotated(self, index: int) -> Objects:
        """The objects as annotated, in the stored pixels or, where `declared` says it, in the upright picture."""
        raise NotImplementedError

    def objects(self, index: int) -> Objects:
        """The objects in the upright picture, which is not decoded."""
        return upright(self.annotated(index), self.pictures[index])

    def class_sets(self) -> ClassSets:
        """The classes of each picture's objects, from its annotation alone; none where that is damaged."""
        return [_classes(self, index) for index in range(len(self))]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        path = self.pictures[index]
        image, orientation = decode_turned(path, str(path))
        found = turned(self.annotated(index), orientation, image.shape[:2], str(path))
        return labelled(image, self.keys[index], found)

    def fingerprint(self) -> str:
        """A digest of the keys and of the files of pictures and annotations."""
        files = fingerprints.of_files([*self.pictures, *self.annotations])
        return fingerprints.combine(self.name, self.classes, self.keys, files)


def _classes(source: PictureFiles, index: int) -> tuple[int, ...]:
    try:
        found = source.annotated(index)
    except CorruptSample:
        return ()
    return distinct(found["labels"][~found["ignore"]])


def upright(objects: Objects, picture: pathlib.Path | bytes) -> Objects:
    """Objects as annotated, turned as the EXIF of the picture's file says; a damaged file turns nothing."""
    where = "picture" if isinstance(picture, bytes) else str(picture)
    try:
        data = picture if isinstance(picture, bytes) else read_file(picture, where)
        orientation = orientation_of(data, where)
        sides = picture_size(data, where) if orientation != 1 else (0, 0)
    except CorruptSample:
        orientation, sides = 1, (0, 0)
    return turned(objects, orientation, stored_sides(orientation, sides), where)


def turned(objects: Objects, orientation: int, sides: tuple[int, int], where: str) -> Objects:
    """Objects as annotated in the upright picture of `sides` (height, width); see data/read/turning.py."""
    found = {name: value for name, value in objects.items() if name != DECLARED}
    if orientation != 1 and DECLARED in objects:
        height, width = objects[DECLARED].tolist()
        orientation = applied(orientation, (height, width), sides, where)
    boxes = {n: turned_boxes(found[n], orientation, sides) for n in BOXES if n in found}
    return found | (boxes if orientation != 1 else {})


def labelled(image: np.ndarray, key: str, objects: Objects) -> Sample:
    """A sample with the objects that have a part in the picture, cut to it."""
    height, width = image.shape[:2]
    boxes = objects["boxes"].clip(0, np.asarray([width, height, width, height], np.float32))
    there = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    sample: Sample = {
        "image": image,
        "boxes": boxes[there],
        "box_labels": objects["labels"][there],
        "box_ignore": objects["ignore"][there],
        "key": key,
    }
    for name in ("crowd", "masks"):
        if name in objects:
            sample[f"box_{name}"] = objects[name][there]
    return sample
