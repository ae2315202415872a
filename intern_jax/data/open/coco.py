"""COCO's JSON of instances or captions, with its folder of pictures.

The file is parsed in memory, without polygons; what is kept of it are arrays.
"""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.data.detection.listed import Listed, ObjectRows
from intern_jax.data.detection.masks import Outline, read_outline
from intern_jax.data.open import texts
from intern_jax.data.read import opened as base
from intern_jax.data.read.decoding import MAX_SIDE, decode
from intern_jax.data.schema.sample import Sample, one_line

FILE_BYTES = 2 << 30
HEAVY = (
    "segmentation",
    "keypoints",
)  # fields of annotations that are dropped while the file is parsed


class Coco(Listed):
    """The pictures of a COCO file: "detection" with boxes and their labels, or "pairs" with captions.

    `images` is the folder of the pictures; by default it is found beside the file. Boxes are clipped to the picture. A
    crowd is ignored. A box that is not finite, and one that is empty inside the picture, are dropped; `refused` counts
    them. `classes` are the names of the categories, sorted by their ids. `upright` says that boxes are of pictures as
    EXIF turns them. With `masks`, samples have `box_masks`; one that cannot be read is unknown, and counted.

    Objects365 has this form. Its file names the folder of another machine, "images/v1/patch8/NAME.jpg"; the pictures
    are found in patch8/ beside the file, or in one folder.
    """

    def __init__(
        self,
        path: base.Path,
        images: base.Path | None = None,
        name: str | None = None,
        upright: bool = False,
        masks: bool = False,
    ):
        super().__init__()
        self.upright, self.masked = upright, masks
        self.path = pathlib.Path(path)
        if self.path.is_dir():
            self.path = _only_json(self.path)
        self.name = name or base.stem(self.path)
        content = _read(self.path, masks)
        rows = self._images(content)
        names = [rows[one]["file_name"] for one in rows]
        base.check_some(len(names), self.path, "image", self.refused)
        folder, left = _folder(self.path, names[0], images)
        inside = base.Inside(folder, folder)
        for row in rows.values():
            row["file_name"] = "/".join(pathlib.PurePosixPath(row["file_name"]).parts[left:])
        annotations = [a for a in _list(content, "annotations", self.path) if isinstance(a, dict)]
        self.family = "detection" if any("bbox" in a for a in annotations) else "pairs"
        self.classes = ()
        self._texts: list[list[str]] = []
        objects = ObjectRows()
        if self.family == "detection":
            self._take_boxes(content, annotations, rows, objects)
        else:
            rows = self._take_texts(annotations, rows)
        keys = [row["file_name"] for row in rows.values()]
        if len(set(keys)) < len(keys):
            raise UserError(f"{self.path}: pictures of one name in {folder}; keep their folders")
        sizes = [row["size"] for row in rows.values()]
        pictures = [inside.path(key) for key in keys]
        self.take(self.classes, keys, pictures, objects, [self.path], sizes=sizes)
        self._licences = _licences(content)
        self._origins = [row["origin"] for row in rows.values()]

    def _images(self, content: Mapping[str, Any]) -> dict[Any, dict[str, Any]]:
        """What is kept of each image, by its id, sorted by file name."""
        found: dict[Any, dict[str, Any]] = {}
        taken = set()
        for image in _list(content, "images", self.path):
            one = _id(image.get("id")) if isinstance(image, dict) else None
            file = image.get("file_name") if one is not None else None
            if one is None or not isinstance(file, str) or texts.clean(file) != file:
                self.passed.add("image without id or file name", f"{self.path}: {str(one)[:80]}")
            elif base.outside(file):
                self.passed.add("path that leads outside", f"{self.path}: {file[:80]}")
            elif one in found or file in taken:
                self.passed.add("image listed twice", f"{self.path}: {file[:80]}")
            else:
                taken.add(file)
                size = (_side(image.get("width")), _side(image.get("height")))
                source = texts.first_value(image, ("coco_url", "flickr_url", "source"))
                origin = (_id(image.get("license")), source if isinstance(source, str) else None)
                found[one] = {"file_name": file, "size": size, "origin": origin}
        return dict(sorted(found.items(), key=lambda item: item[1]["file_name"]))

    def _take_boxes(
        self, content: Any, annotations: list[Any], rows: Mapping[Any, Any], objects: ObjectRows
    ) -> None:
        categories: dict[Any, str] = {}
        for category in _list(content, "categories", self.path):
            one = _id(category.get("id")) if isinstance(category, dict) else None
            if one is None or not texts.clean(str(category.get("name") or "")):
                raise UserError(f"{self.path}/categories: one has no id or name; give both")
            if one in categories:
                raise UserError(
                    f"{self.path}/categories: id {one} is there twice; number them anew"
                )
            categories[one] = texts.clean(str(category["name"]), texts.MAX_CLASS)
        ordered = sorted(categories, key=lambda one: (isinstance(one, str), one))
        number: dict[Any, int] = {one: i for i, one in enumerate(ordered)}
        self.classes = tuple(categories[one] for one in ordered)
        place = {one: i for i, one in enumerate(rows)}
        sizes = [row["size"] for row in rows.values()]
        for annotation in annotations:
            at = place.get(_id(annotation.get("image_id")))
            label = number.get(_id(annotation.get("category_id")))
            most = self.most(sizes[at] if at is not None else (0, 0))
            box, cause = _corners(annotation.get("bbox"), most)
            if at is None:
                cause = "box of an unknown image"
            elif label is None:
                cause = "box of an unknown category"
            elif annotation.get("iscrowd", 0) not in (0, 1, None):
                cause = "box whose iscrowd is neither 0 nor 1"
            if cause is not None or at is None or label is None:
                self.passed.add(
                    str(cause), f"{self.path}: annotation {str(annotation.get('id'))[:40]}"
                )
                continue
            area = annotation.get("area")
            right = type(area) in (int, float) and 0 < area < 1e12
            crowd = annotation.get("iscrowd") in (1, True)
            outline = self._outline(annotation, sizes[at]) if self.masked else None
            area = area if right else math.nan
            objects.add(at, box, label, crowd=crowd, area=area, outline=outline)

    def _outline(self, annotation: Mapping[str, Any], size: tuple[int, int]) -> Outline | None:
        """The mask of an annotation of a picture of `size` (width, height), or None where it is unknown."""
        found = annotation.get("segmentation")
        where = f"{self.path}: annotation {str(annotation.get('id'))[:40]}"
        if found is None:
            self.passed.add("mask that cannot be read", where)
        elif found.runs is not None and 0 not in size and found.size != (size[1], size[0]):
            self.passed.add("mask of another size", where)
            return None
        return found

    def _take_texts(self, annotations: list[Any], rows: dict[Any, Any]) -> dict[Any, Any]:
        """Keep the captions, and return the images that have some."""
        found: dict[Any, list[str]] = {one: [] for one in rows}
        for annotation in annotations:
            one = _id(annotation.get("image_id"))
            if one in found:
                found[one] += texts.captions(texts.first_value(annotation, texts.TEXT))
            else:
                self.passed.add("caption of an unknown image", f"{self.path}: {str(one)[:80]}")
        self.captioned = True
        for one in rows:
            if not found[one]:
                self.passed.add("no caption", f"{self.path}: {rows[one]['file_name'][:80]}")
        kept = {one: row for one, row in rows.items() if found[one]}
        base.check_some(len(kept), self.path, "image with a box or caption", self.refused)
        self._texts = [texts.joined(found[one]) for one in kept]
        return kept

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        if self.family == "detection":
            return super().__getitem__(index)
        where = str(self.pictures[index])
        return self.sample(index, decode(where, where), self._texts[index], where)

    def origin(self, index: int) -> dict[str, str]:
        """The address and licence that the file gives, and the picture's name."""
        licence, source = self._origins[index]
        known = {"source": source, "licence": self._licences.get(licence)}
        return texts.origin_of(known | {"name": pathlib.PurePosixPath(self.keys[index]).name})


def _read(path: pathlib.Path, masks: bool) -> dict[str, Any]:
    def light(record: dict[str, Any]) -> dict[str, Any]:
        outline = read_outline(record.get("segmentation")) if masks and "bbox" in record else None
        for field in HEAVY:
            record.pop(field, None)
        return record if outline is None else {**record, "segmentation": outline}

    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file; give a COCO file of instances or captions")
        if path.stat().st_size > FILE_BYTES:
            raise UserError(f"{path}: larger than {FILE_BYTES} bytes; split it")
        content = strict_json.parse(path.read_text("utf-8-sig", "replace"), light)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: no readable JSON ({one_line(error)}); get or write it again"
        ) from error
    if not isinstance(content, dict) or "images" not in content:
        raise UserError(
            f"{path}: no COCO file, as it has no list of images; give one, or another kind"
        )
    return content


def _list(content: Mapping[str, Any], name: str, path: pathlib.Path) -> list[Any]:
    found = content.get(name, [])
    if not isinstance(found, list):
        raise UserError(f"{path}/{name}: {type(found).__name__}; COCO has a list there")
    return found


def _only_json(folder: pathlib.Path) -> pathlib.Path:
    found = [
        place / name
        for place in (folder, folder / "annotations")
        if place.is_dir()
        for name in sorted(os.listdir(place))
        if name.endswith(".json") and name[0] not in "._"
    ]
    if len(found) != 1:
        names = ", ".join(str(file.relative_to(folder)) for file in found[:8]) or "none"
        raise UserError(f"{folder}: COCO files there: {names}; give one JSON file as the path")
    return found[0]


def _folder(path: pathlib.Path, first: str, images: base.Path | None) -> tuple[pathlib.Path, int]:
    """(the folder that has a COCO file's first picture, how many of the leading folders of its name are left away).

    `images` is that folder, or None for one beside the file.
    """
    part = path.stem.rpartition("_")[2]  # of instances_val2017, val2017
    inner = (".", "images", part, f"images/{part}", "train", "val", "test")
    folders = [above / name for above in (path.parent, path.parent.parent) for name in inner]
    if images is not None:
        folders = [pathlib.Path(images)]
    parts = pathlib.PurePosixPath(first).parts
    for left in range(len(parts)):
        for folder in folders:
            if folder.joinpath(*parts[left:]).is_file():
                return folder, left
    if images is not None:
        return folders[0], 0
    raise UserError(
        f"{path}: '{first[:80]}' is in no folder beside it; give the pictures as images=FOLDER"
    )


def _id(value: Any) -> int | str | None:
    """An id: a whole number of any size, or text."""
    return value if isinstance(value, str) else strict_json.whole(value)


def _side(value: Any) -> int:
    """A declared side in pixels, 0 where none is."""
    right = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SIDE
    return value if right else 0


def _corners(box: Any, most: Sequence[int]) -> tuple[list[float], str | None]:
    """Corners of COCO's x, y, width, height, cut to 0..`most` (x, y), or why there are none."""
    plain = isinstance(box, list) and len(box) == 4
    if not plain or not all(type(side) in (int, float) and abs(side) < 1e12 for side in box):
        return [], "box that is not four finite numbers"
    x, y, width, height = map(float, box)
    corners = [x, y, x + width, y + height]
    clipped = [min(max(corner, 0.0), float(most[i % 2])) for i, corner in enumerate(corners)]
    # In float32, as samples have them: a very thin box may be empty there.
    x1, y1, x2, y2 = np.asarray(clipped, np.float32)
    if not (width > 0 and height > 0 and x1 < x2 and y1 < y2) or math.isnan(x):
        return [], "empty box"
    return clipped, None


def _licences(content: Mapping[str, Any]) -> dict[Any, str]:
    found = content.get("licenses")
    return {
        _id(one.get("id")): str(one.get("name") or one.get("url") or "")
        for one in (found if isinstance(found, list) else [])
        if isinstance(one, dict)
    }
