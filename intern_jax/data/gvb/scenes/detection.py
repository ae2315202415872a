"""The common part of GV-B's detection sets: pictures, and their objects, which are known without decoding.

`objects(index)` returns what an evaluator needs beyond the sample schema:

| key | value |
|---|---|
| boxes | float32 [N,4]: x1, y1, x2, y2 in pixels as annotated; may be empty or reach outside the picture |
| labels | int32 [N] |
| ignore | bool [N]: neither to be found, nor counted as a false alarm, nor learnt from |

A data set may add keys. The boxes of a sample are those of objects that are not ignored, cut to the
picture; boxes without any part in the picture are dropped.
Legend: N objects of a picture.
"""

import pathlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from intern_jax.data.read.decoding import decode
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import Sample
from intern_jax.data.schema.source import Source

Objects = dict[str, np.ndarray]


@runtime_checkable
class DetectionSource(Source, Protocol):
    """A source of pictures with boxes that also has `objects` for evaluators."""

    def objects(self, index: int) -> Objects: ...


class PictureFiles:
    """Pictures in files with objects; the subclass of a data set implements `objects`."""

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

    def objects(self, index: int) -> Objects:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        path = self.pictures[index]
        return labelled(decode(path, str(path)), self.keys[index], self.objects(index))

    def fingerprint(self) -> str:
        """A digest of the keys and of the files of pictures and annotations."""
        files = fingerprints.of_files([*self.pictures, *self.annotations])
        return fingerprints.combine(self.name, self.classes, self.keys, files)


def labelled(image: np.ndarray, key: str, objects: Objects) -> Sample:
    """A sample with those objects that are not ignored, cut to the picture."""
    height, width = image.shape[:2]
    boxes = objects["boxes"].clip(0, np.asarray([width, height, width, height], np.float32))
    there = ~objects["ignore"] & (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    return {
        "image": image,
        "boxes": boxes[there],
        "box_labels": objects["labels"][there],
        "key": key,
    }
