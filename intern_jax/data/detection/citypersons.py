"""CityPersons: Zhang et al., CityPersons: A Diverse Dataset for Pedestrian Detection, CVPR 2017.

Full-body and visible boxes of the people in Cityscapes' pictures, tested on the val cities. Boxes
are annotated as x, y, width, height; here they are x1 = x and x2 = x + width. A full body may reach
outside the picture. Only pedestrians are to be found. As in the authors' evaluation, riders, sitting
and other persons, groups, and regions marked "ignore" are ignored; the last two are crowds.
"""

import pathlib
from typing import Any

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.detection.objects import DECLARED, Objects, PictureFiles
from intern_jax.data.read import annotations as reading
from intern_jax.data.read.decoding import MAX_SIDE
from intern_jax.data.read.lists import check_listed, subfolders
from intern_jax.data.read.lists import files as names_of
from intern_jax.data.schema.sample import CorruptSample

PARTS = {"train": "train", "test": "val"}
CATEGORIES = (
    "pedestrian",
    "rider",
    "sitting person",
    "person (other)",
    "person group",
    "ignore",
)
REGIONS = ("person group", "ignore")  # with several persons, or none that can be told
PICTURE, ANNOTATION = "_leftImg8bit.png", "_gtBboxCityPersons.json"
BOXES = ("gtBboxCityPersons", "gtBbox_cityPersons_trainval/gtBboxCityPersons")
UNPACK = "unpack leftImg8bit_trainvaltest.zip there"
UNPACK_BOXES = "unpack gtBbox_cityPersons_trainval.zip there"


def read(root: pathlib.Path, split: str) -> "CityPersons":
    """leftImg8bit and gtBboxCityPersons, their train cities (train) or val cities (test)."""
    bases = (root / "citypersons", root / "cityscapes")
    images = reading.first_folder([base / "leftImg8bit" for base in bases], UNPACK)
    boxes = reading.first_folder([base / inner for base in bases for inner in BOXES], UNPACK_BOXES)
    return CityPersons(images / PARTS[split], boxes / PARTS[split])


def open_citypersons(
    data: str | pathlib.Path, split: str = "train", name: str = "citypersons"
) -> "CityPersons":
    """The split "train" or "val" of a folder with leftImg8bit and gtBboxCityPersons."""
    if split not in PARTS.values():
        raise UserError(f"{data}/split: '{split}'; known: {', '.join(PARTS.values())}")
    root = pathlib.Path(data)
    boxes = reading.first_folder([root / inner for inner in BOXES], UNPACK_BOXES)
    return CityPersons(root / "leftImg8bit" / split, boxes / split, name)


class CityPersons(PictureFiles):
    """Street scenes with pedestrians; a key is, for example, "aachen/aachen_000000_000019".

    `annotated` reads the picture's JSON and adds visible_boxes float32 [N,4], visibility float32 [N]
    (area of the visible box over that of the full one) and category int32 [N] in `categories`.
    """

    categories = CATEGORIES

    def __init__(self, images: pathlib.Path, boxes: pathlib.Path, name: str = "citypersons"):
        pictures = _listed(images, PICTURE, UNPACK)
        annotations = _listed(boxes, ANNOTATION, UNPACK_BOXES)
        # Each folder serves as the list of the other.
        check_listed(images, [f"{key}{PICTURE}" for key in annotations], UNPACK)
        check_listed(boxes, [f"{key}{ANNOTATION}" for key in pictures], UNPACK_BOXES)
        if not pictures:
            raise UserError(f"{images}: no city has a picture; {UNPACK}")
        paths = [images / f"{key}{PICTURE}" for key in pictures]
        super().__init__(name, CATEGORIES[:1], pictures, paths)
        self.annotations = [boxes / f"{key}{ANNOTATION}" for key in pictures]

    def annotated(self, index: int) -> Objects:
        where = str(self.annotations[index])
        content = reading.read_json(self.annotations[index], where)
        try:
            found = content["objects"]
            categories = [CATEGORIES.index(one["label"]) for one in found]
            full, visible = _boxes(found, "bbox"), _boxes(found, "bboxVis")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CorruptSample(where, "damaged annotation", "an object is not complete") from error
        category = np.asarray(categories, np.int32).reshape(-1)
        area, seen = _areas(full), _areas(visible)
        return {
            "boxes": full,
            "labels": np.zeros(len(full), np.int32),
            "ignore": category != 0,
            "crowd": np.isin(category, [CATEGORIES.index(name) for name in REGIONS]),
            "visible_boxes": visible,
            "visibility": np.divide(seen, area, out=np.zeros_like(area), where=area > 0),
            "category": category,
            **_declared(content),
        }


def _listed(folder: pathlib.Path, suffix: str, remedy: str) -> list[str]:
    """Keys of the files with a suffix, "city/name", sorted."""
    return [
        f"{city}/{name.removesuffix(suffix)}"
        for city in subfolders(folder, remedy)
        for name in names_of(folder / city, [suffix.lower()], remedy)
    ]


def _declared(content: dict[str, Any]) -> Objects:
    """The size of the picture, where the annotation gives it."""
    sides = [content.get(name) for name in ("imgHeight", "imgWidth")]
    right = all(type(side) is int and 0 < side <= MAX_SIDE for side in sides)
    return {DECLARED: np.asarray(sides)} if right else {}


def _boxes(found: list[dict], name: str) -> np.ndarray:
    x, y, width, height = np.asarray([one[name] for one in found], np.float64).reshape(-1, 4).T
    boxes = np.stack([x, y, x + width, y + height], axis=1)
    if not np.isfinite(boxes).all():
        raise ValueError("a side is not finite")
    return boxes.astype(np.float32)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
