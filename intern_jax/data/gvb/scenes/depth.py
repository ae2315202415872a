"""KITTI and NYUv2: single pictures with measured depth, split and scored as in the literature.

Eigen et al., Depth Map Prediction from a Single Image, NeurIPS 2014 (both splits, NYU's crop); Garg
et al., ECCV 2016 (KITTI's crop); Uhrig et al., Sparsity Invariant CNNs, 3DV 2017 (KITTI's denser
ground truth). The lists are those of BTS, Lee et al., arXiv 1907.10326: "picture ground-truth focal".

A score counts the pixels in `evaluation_mask` whose depth in metres is inside the open interval
`depth_range`. Predictions are first clipped to that interval.
"""

import logging
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.read import annotations as reading
from intern_jax.data.read.decoding import decode_turned
from intern_jax.data.read.lists import check_listed, lines
from intern_jax.data.read.turning import upright_map
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import Sample
from intern_jax.data.schema.source import Source
from intern_jax.data.sources.tfds import TfdsSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """What is scored: depths between `least` and `most` metres, inside a part of the picture.

    `crop` is top, bottom, left, right as fractions of the sides, rounded down to pixels.
    """

    least: float
    most: float
    crop: tuple[float, float, float, float]


# Garg's fractions; NYU's are Eigen's 45:471, 41:601 of 480 x 640.
KITTI = Rule(1e-3, 80.0, (0.40810811, 0.99189189, 0.03594771, 0.96405229))
NYU = Rule(1e-3, 10.0, (45 / 480, 471 / 480, 41 / 640, 601 / 640))
KITTI_UNIT = 1 / 256  # metres
NYU_UNIT = 1 / 1000
LISTS = {
    "kitti": (
        "eigen_{}_files_with_gt.txt",
        "eigen_{}_files.txt",
        "kitti_eigen_{}_files_with_gt.txt",
    ),
    "nyuv2": ("nyudepthv2_{}_files_with_gt.txt", "nyudepthv2_{}_files.txt"),
}
UNPACK_KITTI = "unpack KITTI's raw drives and data_depth_annotated.zip again"
UNPACK_NYU = "unpack sync.zip and make official_splits again"
NYU_PICTURES = {"train": "sync", "test": "official_splits/test"}
NYU_TFDS_SPLITS = {"train": "train", "test": "validation"}
LIST_REMEDY = "get it from train_test_inputs of BTS"


def read_kitti(root: pathlib.Path, split: str) -> Source:
    """KITTI's raw pictures with annotated depth, in Eigen's split; pictures without depth are left out."""
    folder = reading.first_folder([root / "kitti"], UNPACK_KITTI)
    raw = folder / "raw" if (folder / "raw").is_dir() else folder
    truth = reading.first_folder([folder / "data_depth_annotated"], UNPACK_KITTI)
    pairs, skipped = _pairs(folder, "kitti", split)
    parts: dict[str, str] = {}
    pairs = [(picture, _part(truth, depth, parts) + depth) for picture, depth in pairs]
    return DepthFolder("kitti", raw, truth, pairs, KITTI_UNIT, KITTI, UNPACK_KITTI, skipped)


def read_nyu(root: pathlib.Path, split: str) -> Source:
    """NYUv2: BTS' synchronised frames (train), the official 654 (test); or nyu_depth_v2 of TFDS."""
    folder = root / "nyuv2"
    if not folder.is_dir() and (root / "tfds/nyu_depth_v2").is_dir():
        return NyuTfds(NYU_TFDS_SPLITS[split], root / "tfds")
    remedy = f"{UNPACK_NYU}, or prepare nyu_depth_v2 with TFDS in {root / 'tfds'}"
    folder = reading.first_folder([folder], remedy)
    pairs, skipped = _pairs(folder, "nyuv2", split)
    place = folder / NYU_PICTURES[split]
    return DepthFolder("nyuv2", place, place, pairs, NYU_UNIT, NYU, UNPACK_NYU, skipped)


class Scored:
    """A source whose `rule` says which part of a depth map is scored."""

    rule: Rule

    @property
    def depth_range(self) -> tuple[float, float]:
        """The interval of depths that count, in metres, without its ends."""
        return self.rule.least, self.rule.most

    def evaluation_mask(self, height: int, width: int) -> np.ndarray:
        """bool [height, width]: the part of a picture that counts."""
        top, bottom, left, right = self.rule.crop
        mask = np.zeros((height, width), np.bool_)
        mask[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = (
            True
        )
        return mask


class DepthFolder(Scored):
    """Pictures with depth maps in 16-bit grey PNG files, sorted by key; 0 means not measured.

    `pairs` are (picture, depth) below the two folders, and `unit` is metres per step of a value. Keys
    are the names of the pictures. `skipped` counts listed pictures without a depth map.
    """

    family = "depth"
    labels = None
    classes: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        images: pathlib.Path,
        truth: pathlib.Path,
        pairs: Sequence[tuple[str, str]],
        unit: float,
        rule: Rule,
        remedy: str,
        skipped: int = 0,
    ):
        check_listed(images, [picture for picture, _ in pairs], remedy)
        check_listed(truth, [depth for _, depth in pairs], remedy)
        rows = [(picture.rpartition(".")[0], images / picture, truth / d) for picture, d in pairs]
        self.name, self.rule, self.skipped = name, rule, skipped
        self.keys, self.pictures, self.depths = reading.in_order(rows, name)
        self._unit = unit

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        path, depth_path = self.pictures[index], self.depths[index]
        image, orientation = decode_turned(path, str(path))
        stored = reading.depth_units(depth_path, str(depth_path))
        steps = upright_map(stored, orientation, image.shape[:2], str(depth_path))
        return {
            "image": image,
            "depth": steps.astype(np.float32) * np.float32(self._unit),
            "depth_valid": steps > 0,
            "key": self.keys[index],
        }

    def fingerprint(self) -> str:
        """A digest of the keys, the pictures, the depth maps, and the unit and rule of the depths."""
        files = fingerprints.of_files([*self.pictures, *self.depths])
        return fingerprints.combine(self.name, self.keys, files, self._unit, repr(self.rule))

    def examples(self) -> list[str]:
        """Per row a digest of key, picture and depth map, and of the unit and rule."""
        own = fingerprints.combine(self._unit, repr(self.rule))
        rows = zip(self.keys, self.pictures, self.depths, strict=True)
        return [
            fingerprints.combine(own, key, fingerprints.of_files([picture, depths]))
            for key, picture, depths in rows
        ]


class NyuTfds(Scored, TfdsSource):
    """nyu_depth_v2 of TFDS: 47,584 frames (train), the official 654 (validation), depth in float16 metres.

    TFDS keeps no names, so keys are the record's file and position. Training subsets therefore differ
    from those of the folder, which also holds other frames.
    """

    rule = NYU

    def __init__(self, split: str, data_dir: pathlib.Path):
        fields = {"image": "image", "depth": "depth"}
        super().__init__("nyu_depth_v2", split, data_dir, fields, family="depth")
        self.name = "nyuv2"

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        valid = np.isfinite(sample["depth"]) & (sample["depth"] > 0)
        sample["depth"] = np.where(valid, sample["depth"], np.float32(0))
        return sample | {"depth_valid": valid}


def _pairs(folder: pathlib.Path, row: str, split: str) -> tuple[list[tuple[str, str]], int]:
    """(picture, depth) of each line with a ground truth, and the number of lines that have "None" instead."""
    places = (folder, folder / "train_test_inputs")
    names = [name.format(split) for name in LISTS[row]]
    path = reading.first_file([place / name for name in names for place in places], LIST_REMEDY)
    found, skipped = [], 0
    for number, line in enumerate(lines(path, LIST_REMEDY), start=1):
        # "picture depth focal", and for KITTI's training the right camera's picture and depth.
        picture, depth, *_ = (*line.split(), "", "")
        if not depth:
            raise UserError(
                f"{path}: entry {number} '{line[:80]}' names no ground truth; {LIST_REMEDY}"
            )
        if depth == "None":
            skipped += 1
        else:
            found.append((picture.lstrip("/"), depth.lstrip("/")))
    if skipped:
        log.info("%s: %d of %d lines have no ground truth", path, skipped, skipped + len(found))
    # Some of these lists name a picture twice.
    return list(dict.fromkeys(found)), skipped


def _part(truth: pathlib.Path, depth: str, parts: dict[str, str]) -> str:
    """The place of a drive: below train/ or val/ as in the archive, or in a folder that merges both."""
    drive = depth.partition("/")[0]
    if drive not in parts:
        there = (part for part in ("train/", "val/") if (truth / part / drive).is_dir())
        parts[drive] = next(there, "")
    return parts[drive]
