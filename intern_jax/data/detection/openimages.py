"""Open Images: Kuznetsova et al., IJCV 2020. Boxes of 600 classes in CSV files, as published since version 4.

| file | holds |
|---|---|
| [oidv6-]SPLIT-annotations-bbox.csv | ImageID, LabelName, XMin, XMax, YMin, YMax in fractions, IsGroupOf ... |
| [oidv7-]class-descriptions-boxable.csv | LabelName and the class's name, with or without a header |
| bbox_labels_600_hierarchy.json | which class is part of which; optional |
| SPLIT/IMAGEID.jpg | the pictures |

A box of a group (IsGroupOf) is a crowd. Boxes are of the stored pixels.
"""

import csv
import pathlib
from collections.abc import Iterator

from intern_jax.core.config import UserError
from intern_jax.data.detection.listed import Listed, ObjectRows, clipped
from intern_jax.data.read.lists import files
from intern_jax.data.read.opened import Path, check_some, stem
from intern_jax.data.schema.sample import one_line

BOXES, CLASSES = "annotations-bbox.csv", "class-descriptions-boxable.csv"
HIERARCHY = "bbox_labels_600_hierarchy.json"
SIDES = ("XMin", "YMin", "XMax", "YMax")
COLUMNS = ("ImageID", "LabelName", *SIDES, "IsGroupOf")
SPLITS = ("train", "validation", "test")
REMEDY = "get it from https://storage.googleapis.com/openimages/web/download_v7.html"


class OpenImages(Listed):
    """The pictures of a split that are in its folder, with their boxes.

    `split` may be left out where one file of boxes is there. `images` is the folder of the pictures, SPLIT/ by default.
    `refused` counts boxes of pictures that are not there, of unknown classes, and what is no box. `hierarchy` is the
    path of the class tree, or None; `labels_of_classes` has each class's LabelName.
    """

    fractions = True

    def __init__(
        self,
        data: Path,
        split: str | None = None,
        images: Path | None = None,
        name: str | None = None,
    ):
        super().__init__()
        folder = pathlib.Path(data)
        if folder.is_file():
            folder, split = folder.parent, split or _split_of(folder.name)
        self.name = name or stem(folder)
        notes, split = _notes(folder, split)
        described = _one(folder, CLASSES, "")
        classes = dict(_descriptions(described))
        if not classes:
            raise UserError(f"{described}: no classes; {REMEDY}")
        number = {label: i for i, label in enumerate(classes)}
        place = folder / split if images is None else pathlib.Path(images)
        names = files(place, [".jpg"], f"put the pictures of {split} there, or give images=FOLDER")
        owner = {file[:-4]: i for i, file in enumerate(names)}
        rows = ObjectRows()
        for row, where in _rows(notes):
            at, label = owner.get(row["ImageID"]), number.get(row["LabelName"])
            try:
                corners, cause = clipped([float(row[side]) for side in SIDES], (1.0, 1.0))
            except ValueError:
                corners, cause = [], "box that is not four finite numbers"
            if at is None:
                self.passed.add("box of a picture that is not there", where)
            elif label is None:
                self.passed.add("box of an unknown class", where)
            elif cause is not None:
                self.passed.add(cause, where)
            else:
                rows.add(at, corners, label, crowd=row["IsGroupOf"].strip() == "1")
        check_some(len(names), place, "picture", self.refused)
        self.labels_of_classes = tuple(classes)
        tree = folder / HIERARCHY
        self.hierarchy = tree if tree.is_file() else None
        pictures = [place / file for file in names]
        self.take(list(classes.values()), list(owner), pictures, rows, [notes, described])


def _split_of(name: str) -> str | None:
    return next((split for split in SPLITS if f"{split}-" in name), None)


def _notes(folder: pathlib.Path, split: str | None) -> tuple[pathlib.Path, str]:
    """The file of boxes of a split, and the split."""
    if split is not None and split not in SPLITS:
        raise UserError(f"{folder}/split: '{split}'; known: {', '.join(SPLITS)}")
    there = [s for s in SPLITS if list(folder.glob(f"*{s}-{BOXES}"))]
    if split is None and len(there) != 1:
        raise UserError(f"{folder}: boxes of {', '.join(there) or 'no split'} there; give split=")
    split = split or there[0]
    return _one(folder, BOXES, f"{split}-"), split


def _one(folder: pathlib.Path, ending: str, before: str) -> pathlib.Path:
    found = sorted(folder.glob(f"*{before}{ending}"))
    if len(found) != 1:
        what = f"{len(found)} files like it" if found else "missing"
        raise UserError(f"{folder / (before + ending)}: {what}; {REMEDY}")
    return found[0]


def _descriptions(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(LabelName, name) of each class. A LabelName begins with a slash, which a header does not."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(file):
                if len(row) >= 2 and row[0].startswith("/"):
                    yield row[0].strip(), row[1].strip()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); {REMEDY}") from None


def _rows(path: pathlib.Path) -> Iterator[tuple[dict[str, str], str]]:
    """The columns of each line, which is read as it comes: the training file has 14 million."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            absent = [name for name in COLUMNS if name not in header]
            if absent:
                raise UserError(f"{path}: no column '{absent[0]}'; {REMEDY}")
            at = {name: header.index(name) for name in COLUMNS}
            for row in reader:
                if len(row) < len(header):
                    short = f"{len(row)} of {len(header)} columns"
                    raise UserError(f"{path}: line {reader.line_num} has {short}; {REMEDY}")
                columns = {name: row[i] for name, i in at.items()}
                yield columns, f"{path}: line {reader.line_num}"
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); {REMEDY}") from None
