"""Pictures with an XML file each, in the folders of PASCAL VOC: Everingham et al., IJCV 2010 and 2015.

| folder | holds |
|---|---|
| JPEGImages | the pictures |
| Annotations | NAME.xml of each |
| ImageSets/Main/SPLIT.txt | the names of a split, one a line; a folder may have none |

The devkit annotates a box by its first and last pixel, counted from 1 (xmin..xmax). Here a box is x1 = xmin - 1 to
x2 = xmax, and likewise in y. IoU on these boxes, computed without "+1", equals the devkit's IoU, which adds 1 to each
side. Objects marked difficult are ignored.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from intern_jax.data.detection.listed import Listed, ObjectRows, clipped
from intern_jax.data.read.annotations import read_xml
from intern_jax.data.read.decoding import MAX_SIDE
from intern_jax.data.read.formats import EXTENSIONS
from intern_jax.data.read.lists import files, lines
from intern_jax.data.read.opened import Path, check_some, stem
from intern_jax.data.schema.sample import CorruptSample

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
SIDES = ("xmin", "ymin", "xmax", "ymax")
PICTURES, NOTES, LISTS = "JPEGImages", "Annotations", "ImageSets/Main"
REMEDY = f"give a folder with {PICTURES} and {NOTES}"


def corners_of(element: Element) -> list[float]:
    """x1, y1, x2, y2 of an object. ValueError where a side is no number."""
    xmin, ymin, xmax, ymax = (float(element.findtext(f"bndbox/{side}", "")) for side in SIDES)
    return [xmin - 1, ymin - 1, xmax, ymax]


def is_difficult(element: Element) -> bool:
    """Whether an object is marked as difficult."""
    return element.findtext("difficult", "0").strip() == "1"


class Note(NamedTuple):
    """What is annotated of a picture."""

    size: tuple[int, int]  # declared width and height, 0 where none is
    objects: list[tuple[str, list[float], bool]]  # class, corners, difficult


class Voc(Listed):
    """A folder of VOC's layout with classes of its own.

    `split` names a list in ImageSets/Main; without it, every picture with an XML file is read. `classes` are VOC's
    twenty if no object has another name, and otherwise the names found, sorted. `refused` counts objects that are
    no boxes in their picture, and those of a class that `classes` lacks. `upright` says that boxes are of pictures
    as EXIF turns them.
    """

    def __init__(
        self,
        data: Path,
        split: str | None = None,
        classes: Sequence[str] | None = None,
        upright: bool = False,
        name: str | None = None,
    ):
        super().__init__()
        folder = pathlib.Path(data)
        self.name, self.upright = name or stem(data), upright
        pictures: dict[str, pathlib.Path] = {}
        for file in files(folder / PICTURES, EXTENSIONS, REMEDY):
            if (
                pictures.setdefault(pathlib.PurePath(file).stem, folder / PICTURES / file).name
                != file
            ):
                self.passed.add(
                    "picture of a name that is there twice", str(folder / PICTURES / file)
                )
        listed = folder / LISTS / f"{split}.txt"
        if split is None:
            keys = [file.removesuffix(".xml") for file in files(folder / NOTES, [".xml"], REMEDY)]
        else:
            keys = list(dict.fromkeys(line.split()[0] for line in lines(listed, REMEDY)))
        found = {key: self._read(folder, key, pictures) for key in keys}
        there = {key: note for key, note in found.items() if note is not None}
        check_some(len(there), folder, "picture with an annotation", self.refused)
        named = {one for note in there.values() for one, *_ in note.objects}
        usual = CLASSES if named <= set(CLASSES) else sorted(named)
        numbers = {one: i for i, one in enumerate(usual if classes is None else classes)}
        rows = ObjectRows()
        for owner, (key, note) in enumerate(there.items()):
            for one, corners, difficult in note.objects:
                if one in numbers:
                    rows.add(owner, corners, numbers[one], difficult)
                else:
                    self.passed.add("box of an unknown class", f"{key}: '{one[:60]}'")
        self.take(
            list(numbers),
            list(there),
            [pictures[key] for key in there],
            rows,
            [listed] if split is not None else [],
            [folder / NOTES / f"{key}.xml" for key in there],
            [note.size for note in there.values()],
        )

    def _read(
        self, folder: pathlib.Path, key: str, pictures: Mapping[str, pathlib.Path]
    ) -> "Note | None":
        """What is annotated of a picture; None where it is left out."""
        path = folder / NOTES / f"{key}.xml"
        if key not in pictures:
            self.passed.add("annotation without a picture", str(path))
            return None
        try:
            root = read_xml(path, str(path))
        except CorruptSample as fault:
            self.passed.add(fault.cause, str(path))
            return None
        size = side_of(root, "width"), side_of(root, "height")
        found = []
        for element in root.findall("object"):
            try:
                corners, cause = clipped(corners_of(element), self.most(size))
            except ValueError:
                corners, cause = [], "box that is not four finite numbers"
            name = element.findtext("name", "").strip()
            if cause or not name:
                self.passed.add(cause or "object without a name", str(path))
            else:
                found.append((name, corners, is_difficult(element)))
        return Note(size, found)


def side_of(root: Element, name: str) -> int:
    """A declared side in pixels, 0 where none is."""
    text = root.findtext(f"size/{name}", "").strip()
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) <= MAX_SIDE else 0
