"""Sources whose boxes are all read when they are opened: flat arrays of objects, and pictures in files.

Annotations are of the stored pixels, which EXIF may turn, or of the upright picture: a declared size tells which
(data/read/turning.py), or the source says that all are `upright`.
"""

import math
import pathlib
from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from intern_jax.data.detection.masks import SIDE, Outline, on_grid
from intern_jax.data.detection.objects import Objects, labelled, turned
from intern_jax.data.read.annotations import picture_size
from intern_jax.data.read.decoding import MAX_SIDE, decode_turned, orientation_of, read_file
from intern_jax.data.read.opened import Opened
from intern_jax.data.read.turning import applied, stored_sides, turned_map
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample, Sample
from intern_jax.data.schema.source import ClassSets, distinct


class ObjectRows:
    """The objects of many pictures, added in any order, then read by picture."""

    def __init__(self) -> None:
        self._owners, self._boxes, self._labels = array("q"), array("d"), array("i")
        self._flags, self._areas = array("b"), array("d")
        self._outlines: list[Outline | None] = []

    def add(
        self,
        owner: int,
        box: Iterable[float],
        label: int,
        ignore: bool = False,
        crowd: bool = False,
        area: float = math.nan,
        outline: Outline | None = None,
    ) -> None:
        """An object of picture number `owner`; a crowd is ignored too. Without `area` it is the box's."""
        self._owners.append(owner)
        self._boxes.extend(box)
        self._labels.append(label)
        self._flags.append((ignore or crowd) + 2 * crowd)
        self._areas.append(area)
        self._outlines.append(outline)

    def settle(self, pictures: int) -> None:
        """Sort them by picture, each picture's in the order in which they were added."""
        owner = np.asarray(self._owners, np.int64)
        order = np.argsort(owner, kind="stable")
        self._first = np.searchsorted(owner[order], np.arange(pictures + 1))
        self._all = (
            np.asarray(self._boxes, np.float64).reshape(-1, 4)[order],
            np.asarray(self._labels, np.int32)[order],
            np.asarray(self._flags, np.int8)[order],
            np.asarray(self._areas, np.float64)[order],
        )
        self._outlines = [self._outlines[i] for i in order]

    def of(self, index: int, scale: tuple[float, float] = (1.0, 1.0)) -> Objects:
        """The objects of a picture; `scale` (x, y) takes the boxes to pixels."""
        rows = slice(self._first[index], self._first[index + 1])
        boxes, labels, flags, areas = (column[rows] for column in self._all)
        boxes = boxes * np.asarray([*scale, *scale])
        own = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        return {
            "boxes": boxes.astype(np.float32),
            "labels": labels.copy(),
            "ignore": flags > 0,
            "crowd": flags > 1,
            "area": np.where(np.isnan(areas), own, areas).astype(np.float32),
        }

    def class_sets(self) -> list[tuple[int, ...]]:
        """The distinct labels of each picture's objects that are not ignored."""
        _, labels, flags, _ = self._all
        spans = zip(self._first[:-1], self._first[1:], strict=True)
        return [distinct(labels[a:b][flags[a:b] == 0]) for a, b in spans]

    def masks(self, index: int, sides: tuple[int, int]) -> np.ndarray:
        """The objects' masks on grids over their boxes in a picture of `sides` (height, width): uint8 [N,S,S]."""
        first, last = self._first[index], self._first[index + 1]
        limit = np.asarray([sides[1], sides[0]] * 2)
        boxes = self._all[0][first:last].clip(0, limit).tolist()
        outlines = [
            None if one is None or one.size not in ((0, 0), tuple(sides)) else one
            for one in self._outlines[first:last]
        ]
        made = [on_grid(one, box) for one, box in zip(outlines, boxes, strict=True)]
        return np.stack(made) if made else np.zeros((0, SIDE, SIDE), np.uint8)


def clipped(corners: Sequence[float], most: Sequence[float]) -> tuple[list[float], str | None]:
    """Corners x1, y1, x2, y2 cut to 0..`most` (x, y), or the cause why there is no box."""
    if len(corners) != 4 or not all(math.isfinite(corner) for corner in corners):
        return [], "box that is not four finite numbers"
    if corners[0] > corners[2] or corners[1] > corners[3]:
        return [], "box with swapped corners"
    inside = [min(max(c, 0.0), float(most[i % 2])) for i, c in enumerate(corners)]
    # In float32, as samples have them: a very thin box may be empty there.
    x1, y1, x2, y2 = np.asarray(inside, np.float32)
    return ([], "empty box") if not (x1 < x2 and y1 < y2) else (inside, None)


class Listed(Opened):
    """Pictures in files whose objects were read when the source was opened; a subclass's opener calls `take`.

    `fractions` says that boxes are fractions of the picture's sides, `upright` that they are of the upright picture,
    `masked` that samples have masks.
    """

    family = "detection"
    fractions = upright = masked = False

    def take(
        self,
        classes: Sequence[str],
        keys: Sequence[str],
        pictures: Sequence[pathlib.Path],
        rows: ObjectRows,
        lists: Sequence[pathlib.Path] = (),
        notes: Sequence[pathlib.Path | None] = (),
        sizes: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Take what was read, and log what was left out.

        `lists` are the files on which all samples depend, `notes` each picture's own.
        `sizes` are the declared (width, height) of each picture, 0 where none is.
        """
        self.classes, self.keys, self.pictures = tuple(classes), keys, pictures
        self.rows, self._lists, self._notes = rows, tuple(lists), notes
        self._sizes = np.asarray(sizes, np.int32)
        rows.settle(len(keys))
        self.passed.tell(self.name)

    def objects(self, index: int) -> Objects:
        """The objects in the upright picture, which is not decoded."""
        where = str(self.pictures[index])
        try:
            data = read_file(self.pictures[index], where)
            orientation = orientation_of(data, where)
            sides = stored_sides(orientation, picture_size(data, where))
        except CorruptSample:
            if self.fractions:
                raise
            return self.rows.of(index)
        return self._placed(index, orientation, sides)

    def _placed(self, index: int, orientation: int, sides: tuple[int, int]) -> Objects:
        """The objects in an upright picture of `sides` (height, width) that EXIF turned."""
        turn = self._turn(index, orientation, sides)
        height, width = stored_sides(turn, sides)
        scale = (width, height) if self.fractions else (1, 1)
        return turned(self.rows.of(index, scale), turn, sides, str(self.pictures[index]))

    def _turn(self, index: int, orientation: int, sides: tuple[int, int]) -> int:
        """The orientation by which boxes turn. CorruptSample for a picture of another size than the declared one."""
        width, height = self._sizes[index].tolist() if len(self._sizes) else (0, 0)
        found = orientation
        if width and height:
            # Boxes of a picture that was resized or turned would lie elsewhere.
            found = applied(orientation, (height, width), sides, str(self.pictures[index]))
        return 1 if self.upright else found

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path = self.pictures[index]
        image, orientation = decode_turned(path, str(path))
        sides = image.shape[:2]
        found = self._placed(index, orientation, sides)
        if self.masked:
            turn = self._turn(index, orientation, sides)
            stored = self.rows.masks(index, stored_sides(turn, sides))
            # The objects' axis goes last, as the channels of a map.
            found["masks"] = np.moveaxis(turned_map(np.moveaxis(stored, 0, 2), turn), 2, 0)
        return labelled(image, self.keys[index], found)

    def fingerprint(self) -> str:
        """As of every opened source, and of how boxes and masks are read."""
        return fingerprints.combine(super().fingerprint(), self.upright, self.masked)

    def examples(self) -> list[str]:
        """As of every opened source, and of how boxes and masks are read."""
        own = (self.upright, self.masked)
        return [fingerprints.combine(one, *own) for one in super().examples()]

    def most(self, size: tuple[int, int]) -> list[int]:
        """The sides x, y to which a box is cut in a picture of a declared size (width, height), 0 where none is.

        Of the upright picture a file may declare the size of the stored pixels.
        """
        sides = [max(size)] * 2 if self.upright and 0 not in size else size
        return [side or MAX_SIDE for side in sides]

    def class_sets(self) -> ClassSets | None:
        """The classes of each picture's objects, which were read when the source was opened."""
        return self.rows.class_sets() if self.family == "detection" else None

    def files(self) -> list[pathlib.Path]:
        """The lists, the annotations and the pictures."""
        return [*self._lists, *(note for note in self._notes if note is not None), *self.pictures]

    def files_of(self, index: int) -> tuple[pathlib.Path, ...]:
        """The lists, and the annotation and the file of one picture."""
        note = self._notes[index] if self._notes else None
        return (*self._lists, *(() if note is None else (note,)), self.pictures[index])
