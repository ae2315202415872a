"""PASCAL VOC: the objects of 2007 and 2012, and the masks of 2012 together with those of SBD.

Everingham et al., IJCV 2010 and 2015; Hariharan et al., Semantic Contours from Inverse Detectors,
ICCV 2011 (SBD). data/detection/voc.py tells what its boxes are. Objects marked difficult are ignored.
"""

import os
import pathlib
from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import ArrayLike

from intern_jax.core.config import UserError
from intern_jax.data.detection.objects import (
    DECLARED,
    Objects,
    PictureFiles,
    labelled,
    turned,
    upright,
)
from intern_jax.data.detection.voc import CLASSES, corners_of, is_difficult, side_of
from intern_jax.data.read import annotations as reading
from intern_jax.data.read.decoding import decode_turned
from intern_jax.data.read.lists import check_listed, lines
from intern_jax.data.read.turning import upright_map
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample, Sample
from intern_jax.data.schema.source import ClassSets, Source, distinct
from intern_jax.data.sources.tfds import TfdsSource

MASK_CLASSES = ("background", *CLASSES)
UNPACK = "unpack the VOC archives (benchmark --list names them)"
UNPACK_SBD = "train needs SBD: unpack benchmark.tgz there, or give VOC2012/SegmentationClassAug"
# (year, ImageSets/Main list, the TFDS splits with the same pictures)
TRAINVAL = ("trainval", ("train", "validation"))
PARTS = {
    "train": (("2007", *TRAINVAL), ("2012", *TRAINVAL)),
    "test": (("2007", "test", ("test",)),),
}
AUGMENTED = ("trainaug", "train_aug", "aug")
MASK_LISTS = {"train": "train", "test": "val"}
TFDS_OFFSET = np.asarray([1, 1, 0, 0], np.float64)  # TFDS divides the coordinates, which begin at 1


def read_objects(root: pathlib.Path, split: str) -> Source:
    """VOC 2007 + 2012 trainval (train), VOC 2007 test (test): from the devkit's folders or TFDS."""
    years = [_year_folders(root, "voc07_12", year) for year, _, _ in PARTS[split]]
    prepared = root / "tfds" / "voc"
    if prepared.is_dir() and not all(any(f.is_dir() for f in folders) for folders in years):
        return VocTfds(root / "tfds", PARTS[split])
    parts = [
        (
            reading.first_folder(folders, f"{UNPACK}, or prepare voc with TFDS in {root / 'tfds'}"),
            name,
        )
        for folders, (_, name, _) in zip(years, PARTS[split], strict=True)
    ]
    return VocFolder(parts)


def read_masks(root: pathlib.Path, split: str) -> Source:
    """VOC 2012 segmentation: train with SBD's masks (train), val (test)."""
    folder = reading.first_folder(_year_folders(root, "voc2012_seg", "2012"), UNPACK)
    ids = lines(folder / f"ImageSets/Segmentation/{MASK_LISTS[split]}.txt", UNPACK)
    masks = _paths(folder, "SegmentationClass/{}.png", ids, UNPACK)
    if split == "train":
        masks += _sbd_masks(root, folder, ids)
    return MaskFolder(folder, masks)


def _year_folders(root: pathlib.Path, row: str, year: str) -> list[pathlib.Path]:
    bases = (root / row, root / "voc")
    return [base / devkit / f"VOC{year}" for base in bases for devkit in ("VOCdevkit", "")]


class VocFolder(PictureFiles):
    """The pictures in lists of VOC folders, [(folder of VOC2007, "trainval"), ...], sorted by key.

    A key is the year's folder and the picture's name, such as "VOC2007/000005". `objects` reads the
    picture's XML.
    """

    def __init__(self, parts: Sequence[tuple[pathlib.Path, str]], name: str = "voc07_12"):
        rows = []
        for folder, set_name in parts:
            ids = lines(folder / f"ImageSets/Main/{set_name}.txt", UNPACK)
            names = [(f"JPEGImages/{i}.jpg", f"Annotations/{i}.xml") for i in ids]
            check_listed(folder, [name for pair in names for name in pair], UNPACK)
            rows += [
                (f"{folder.name}/{i}", folder / picture, folder / annotation)
                for i, (picture, annotation) in zip(ids, names, strict=True)
            ]
        keys, pictures, self.annotations = reading.in_order(rows, name)
        super().__init__(name, CLASSES, keys, pictures)

    def annotated(self, index: int) -> Objects:
        """The picture's boxes, labels and ignore (difficult), in the order of its XML file."""
        where = str(self.annotations[index])
        root = reading.read_xml(self.annotations[index], where)
        try:
            found = [_object(element) for element in root.findall("object")]
        except (AttributeError, TypeError, ValueError) as error:
            raise CorruptSample(where, "damaged annotation", "an object is not complete") from error
        objects = _objects(*zip(*found, strict=True)) if found else _objects((), (), ())
        height, width = side_of(root, "height"), side_of(root, "width")
        return objects | ({DECLARED: np.asarray([height, width])} if height and width else {})


def _object(element: Element) -> tuple[list[float], int, bool]:
    # ValueError where a text is missing: "" is no number and no class.
    corners = corners_of(element)
    if not np.isfinite(corners).all():
        raise ValueError("a side is not finite")
    label = CLASSES.index(element.findtext("name", "").strip().lower())
    return corners, label, is_difficult(element)


def _objects(corners: ArrayLike, labels: ArrayLike, difficult: ArrayLike) -> Objects:
    boxes = np.asarray(corners, np.float64).reshape(-1, 4)
    return {
        "boxes": boxes.astype(np.float32),
        "labels": np.asarray(labels, np.int32).reshape(-1),
        "ignore": np.asarray(difficult, np.bool_).reshape(-1),
    }


class VocTfds:
    """The same pictures as in VocFolder, with the same keys in the same order, prepared by TFDS.

    TFDS stores a box as fractions of the picture's sides in float32; the box returned here is rounded
    to 1/100 pixel. Opening reads the picture's name in every record once, and decodes no picture.
    """

    family = "detection"
    labels = None
    name = "voc07_12"
    classes = CLASSES

    def __init__(self, data_dir: pathlib.Path, parts: Sequence[tuple[str, str, Sequence[str]]]):
        rows = []
        for year, _, splits in parts:
            for split in splits:
                part = _TfdsPart(year, split, data_dir)
                rows += [(key, (part, i)) for i, key in enumerate(part.names())]
        self.keys, self._rows = reading.in_order(rows, self.name)

    def __len__(self) -> int:
        return len(self.keys)

    def class_sets(self) -> ClassSets:
        """The classes of each picture's objects that are not difficult, from its record."""
        found = (
            part.objects(row, key) for (part, row), key in zip(self._rows, self.keys, strict=True)
        )
        return [distinct(one["labels"][~one["ignore"]]) for one in found]

    def objects(self, index: int) -> Objects:
        """The picture's boxes, labels and ignore (difficult), in the order of its record."""
        part, row = self._rows[index]
        return upright(part.objects(row, self.keys[index]), part.picture(row))

    def __getitem__(self, index: int) -> Sample:
        part, row = self._rows[index]
        key = self.keys[index]
        image, orientation = decode_turned(part.picture(row), key)
        found = turned(part.objects(row, key), orientation, image.shape[:2], key)
        return labelled(image, key, found)

    def fingerprint(self) -> str:
        """A digest of the prepared parts."""
        parts = dict.fromkeys(part for part, _ in self._rows)
        return fingerprints.combine(self.keys, [part.fingerprint() for part in parts])


class _TfdsPart(TfdsSource):
    """One split of voc/YEAR in TFDS, with the fields that the sample schema lacks."""

    def __init__(self, year: str, split: str, data_dir: str | os.PathLike[str]):
        fields = {"image": "image", "boxes": "objects/bbox", "box_labels": "objects/label"}
        super().__init__(f"voc/{year}", split, data_dir, fields, family="detection")
        self._year = year
        if self.classes != CLASSES:
            raise UserError(f"{data_dir}/voc/{year}: has other classes than VOC; prepare it again")

    def names(self) -> list[str]:
        stems = (os.path.splitext(row["image/filename"].decode())[0] for row in self._data)
        return [f"VOC{self._year}/{stem}" for stem in stems]

    def picture(self, row: int) -> bytes:
        return bytes(self._data[row]["image"])

    def objects(self, row: int, key: str) -> Objects:
        record = self._data[row]
        height, width = reading.picture_size(bytes(record["image"]), key)
        found = record["objects"]
        y1, x1, y2, x2 = np.asarray(found["bbox"], np.float64).reshape(-1, 4).T
        sides = np.stack([x1 * width, y1 * height, x2 * width, y2 * height], axis=1)
        return _objects(sides.round(2) - TFDS_OFFSET, found["label"], found["is_difficult"])


class MaskFolder:
    """VOC 2012's pictures with class masks uint8 [H,W], sorted by key; 0 is background, 255 ignored.

    `masks` are (name of the picture, file of its mask). The file is a PNG whose palette numbers are
    the classes, or a .mat file of SBD (GTcls.Segmentation), in which no pixel is ignored.
    """

    family = "segmentation"
    labels = None
    classes = MASK_CLASSES

    def __init__(
        self,
        folder: pathlib.Path,
        masks: Sequence[tuple[str, pathlib.Path]],
        name: str = "voc2012_seg",
    ):
        self.name = name
        pictures = _paths(folder, "JPEGImages/{}.jpg", [i for i, _ in masks], UNPACK)
        rows = [
            (f"{folder.name}/{i}", picture, mask)
            for (i, picture), (_, mask) in zip(pictures, masks, strict=True)
        ]
        self.keys, self.pictures, self.masks = reading.in_order(rows, name)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        path, mask_path = self.pictures[index], self.masks[index]
        image, orientation = decode_turned(path, str(path))
        mask = upright_map(_mask(mask_path), orientation, image.shape[:2], str(mask_path))
        return {"image": image, "mask": mask, "key": self.keys[index]}

    def fingerprint(self) -> str:
        """A digest of the keys, the pictures and the masks."""
        files = fingerprints.of_files([*self.pictures, *self.masks])
        return fingerprints.combine(self.name, self.keys, files)

    def examples(self) -> list[str]:
        """Per row a digest of key, picture and mask."""
        rows = zip(self.keys, self.pictures, self.masks, strict=True)
        return [
            fingerprints.combine(key, fingerprints.of_files([picture, mask]))
            for key, picture, mask in rows
        ]


def _paths(
    folder: pathlib.Path, pattern: str, ids: Sequence[str], remedy: str
) -> list[tuple[str, pathlib.Path]]:
    """(name, file) of all pictures in `ids`, after a check that they are there."""
    names = [pattern.format(i) for i in ids]
    check_listed(folder, names, remedy)
    return [(i, folder / name) for i, name in zip(ids, names, strict=True)]


def _mask(path: pathlib.Path) -> np.ndarray:
    if path.suffix != ".mat":
        return reading.class_indices(path, str(path))
    found = reading.read_mat(path, ["GTcls"], reading.MAX_NOTES)["GTcls"]
    try:
        return np.ascontiguousarray(found["Segmentation"][0, 0], np.uint8)
    except (IndexError, ValueError, TypeError) as error:
        raise CorruptSample(str(path), "damaged annotation", "no GTcls.Segmentation") from error


def _sbd_masks(
    root: pathlib.Path, folder: pathlib.Path, train: Sequence[str]
) -> list[tuple[str, pathlib.Path]]:
    """SBD's masks of the pictures that are neither in the train list nor in the val list of VOC 2012.

    SBD's train and val lists together have 11,355 pictures. What is left of them, plus VOC's train
    list, are the 10,582 pictures that the literature calls "train_aug". If the folder
    VOC2012/SegmentationClassAug exists, a common form of these masks as PNG files, it is read instead
    of SBD's .mat files. A list in ImageSets/Segmentation (one of AUGMENTED) then selects its pictures;
    without one, all are read.
    """
    own = {*train, *lines(folder / "ImageSets/Segmentation/val.txt", UNPACK)}
    bases = (root / "voc2012_seg", root / "voc", root / "sbd")
    places = [base / inner for base in bases for inner in ("benchmark_RELEASE/dataset", "dataset")]
    sbd = next((place for place in places if place.is_dir()), None)
    if sbd is not None:
        ids = lines(sbd / "train.txt", UNPACK_SBD) + lines(sbd / "val.txt", UNPACK_SBD)
        return _paths(
            sbd, "cls/{}.mat", [i for i in dict.fromkeys(ids) if i not in own], UNPACK_SBD
        )
    if not (folder / "SegmentationClassAug").is_dir():
        raise UserError(f"{places[0]}: no such folder; {UNPACK_SBD}")
    ids = [i for i in dict.fromkeys(_augmented(folder)) if i not in own]
    return _paths(folder, "SegmentationClassAug/{}.png", ids, UNPACK_SBD)


def _augmented(folder: pathlib.Path) -> list[str]:
    """The names of the pictures that have a mask in SegmentationClassAug."""
    for name in AUGMENTED:
        listed = folder / f"ImageSets/Segmentation/{name}.txt"
        if listed.is_file():
            # Some of these lists have lines like "/JPEGImages/a.jpg /SegmentationClassAug/a.png".
            return [pathlib.PurePosixPath(i.split()[0]).stem for i in lines(listed, UNPACK_SBD)]
    return sorted(path.stem for path in (folder / "SegmentationClassAug").glob("*.png"))
