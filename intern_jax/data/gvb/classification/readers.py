"""GV-B's 20 classification data sets: the files that each row is read from, and how a user gets them.

If the folder ROOT/ROW NAME exists, a row is read from it, in the layout of its authors. Otherwise it is read from
ROOT/tfds, where TFDS has prepared it as ArrayRecord. Both forms give the same keys, class numbers and order, so a
subset drawn by key is the same from either. The pixels are the same too, except where TFDS compresses them again:
sun397 (at most 120,000 pixels, JPEG), retinopathy (JPEG), and the few pets and ImageNet pictures that are not RGB JPEG.

If GV-B does not say which split it means, we take the official training split alone and the official test split. For
pets the training split is trainval, because its authors offer nothing smaller. The docstrings of the readers name the
files.
"""

import functools
import pathlib
from collections.abc import Callable

from intern_jax.core.config import UserError
from intern_jax.data.gvb.classification import folders, imagenet, packed, tfds_rows
from intern_jax.data.gvb.classification.examples import Examples
from intern_jax.data.gvb.classification.guides import FOLDERS, prepare
from intern_jax.data.gvb.classification.tfds_rows import Prepared
from intern_jax.data.sources.reader import Reader

ReadFolder = Callable[[pathlib.Path, str], Examples]

VALIDATION_IS_TEST = {"train": ("train",), "test": ("validation",)}
# These sets have no split, or none that is the same everywhere: `ranked_split` draws ours from all their pictures.
ALL_TRAIN = {"train": ("train",), "test": ("train",)}
ALL_PARTS = {"train": ("train", "test"), "test": ("train", "test")}

# Row name: (reader of its folder, or None if only the form of TFDS is read; form of TFDS, or None if it has no use).
ROWS: dict[str, tuple[ReadFolder | None, Prepared | None]] = {
    "cifar10": (packed.cifar10, Prepared("cifar10", "id")),
    "cifar100": (packed.cifar100, Prepared("cifar100", "id")),
    "food101": (folders.food101, Prepared("food101:2.1.0", "id", VALIDATION_IS_TEST)),
    "pets": (folders.pets, Prepared("oxford_iiit_pet", "file_name")),
    "flowers102": (folders.flowers102, Prepared("oxford_flowers102", "file_name")),
    "sun397": (
        folders.sun397,
        Prepared(
            "sun397/standard-part1-120k",
            "file_name",
            left_out=frozenset(folders.SUN_UNREADABLE),
        ),
    ),
    "cars": (folders.cars, Prepared("cars196", "id")),
    "dtd": (folders.dtd, Prepared("dtd", "file_name")),
    "caltech101": (
        folders.caltech101,
        Prepared(
            "caltech101",
            "image/file_name",
            ALL_PARTS,
            folders.SPLITS["caltech101"],
            tfds_rows.below_class,
        ),
    ),
    "aircraft": (folders.aircraft, None),
    "svhn": (packed.svhn, Prepared("svhn_cropped", "id")),
    "eurosat": (
        folders.eurosat,
        Prepared("eurosat/rgb", "filename", ALL_TRAIN, folders.SPLITS["eurosat"]),
    ),
    "resisc45": (
        folders.resisc45,
        Prepared("resisc45", "filename", ALL_TRAIN, folders.SPLITS["resisc45"]),
    ),
    "retinopathy": (
        folders.retinopathy,
        Prepared("diabetic_retinopathy_detection/btgraham-300", "name"),
    ),
    "fer2013": (packed.fer2013, None),
    "ucf101": (folders.ucf101, None),
    "gtsrb": (folders.gtsrb, None),
    "pcam": (None, Prepared("patch_camelyon", "id")),
    "imagenet": (imagenet.imagenet, Prepared("imagenet2012", "file_name", VALIDATION_IS_TEST)),
    "kinetics700": (folders.kinetics700, None),
}


def _open(name: str, root: pathlib.Path, split: str) -> Examples:
    read_folder, prepared = ROWS[name]
    folder = root / name
    if read_folder is not None and folder.is_dir():
        return read_folder(folder, split)
    if prepared is not None:
        version = tfds_rows.find(root / "tfds", prepared)
        if version is not None:
            return tfds_rows.read(name, split, version, prepared)
    places = [str(folder)] if read_folder is not None else []
    if prepared is not None:
        places.append(str(root / "tfds" / prepared.builder.partition(":")[0]))
    raise UserError(
        f"{' or '.join(places)}: missing; the steps to get {name}:"
        " python -m intern_jax benchmark --list"
    )


def _steps(name: str) -> str:
    read_folder, prepared = ROWS[name]
    ways = []
    if read_folder is not None:
        ways.append(FOLDERS[name])
    if prepared is not None:
        ways.append(prepare(name, prepared.builder))
    return "\nor, read where the folder is not there:\n".join(ways)


READERS: dict[str, Reader] = {
    name: Reader(functools.partial(_open, name), _steps(name)) for name in ROWS
}
