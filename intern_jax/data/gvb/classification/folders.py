"""Readers of data sets that are folders of pictures with list files, in the layout of their authors.

Each reader takes the data set's folder and "train" or "test". Keys are those of the TFDS builder, if there is one.
"""

import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.data.gvb.classification.class_names import CLASSES
from intern_jax.data.gvb.classification.examples import (
    Example,
    Examples,
    file_picture,
    ranked_split,
)
from intern_jax.data.gvb.classification.retina import rescaled
from intern_jax.data.read.decoding import decode
from intern_jax.data.read.lists import (
    check_listed,
    files,
    integer,
    lines,
    matlab,
    number_of,
    place,
    subfolders,
    table,
    text,
)
from intern_jax.data.schema.sample import CorruptSample

# (share or count per class for training, share for testing): the sizes of VTAB, and Caltech-101's 30 per class.
SPLITS = {"caltech101": (30, 0.0), "eurosat": (0.6, 0.2), "resisc45": (0.6, 0.2)}
# TFDS leaves these two out: they cannot be decoded.
SUN_UNREADABLE = {
    "/c/church/outdoor/sun_bhenjvsvrtumjuri.jpg",
    "/t/track/outdoor/sun_aophkoiosslinihb.jpg",
}
MAX_PPM_SIDE = 4096


def food101(folder: pathlib.Path, split: str) -> Examples:
    """food-101/{images,meta}: meta/train.json and test.json; keys "class/number"."""
    folder = place(folder, "food-101")
    remedy = "extract food-101.tar.gz again"
    classes = lines(folder / "meta/classes.txt", remedy)
    listing = folder / f"meta/{split}.json"
    try:
        content = strict_json.parse(text(listing, remedy))
        named = [(name, key) for name, keys in content.items() for key in keys]
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"{listing}: no JSON object of lists of pictures; {remedy}") from None
    numbers = _numbers(classes)
    found = [
        (key, number_of(name, numbers, str(listing), remedy), f"{key}.jpg") for name, key in named
    ]
    return _rows("food101", split, classes, folder / "images", found, remedy)


def pets(folder: pathlib.Path, split: str) -> Examples:
    """images/ and annotations/{trainval,test}.txt; training is the official trainval."""
    remedy = "extract images.tar.gz and annotations.tar.gz again"
    lists = {
        part: lines(folder / f"annotations/{part}.txt", remedy) for part in ("trainval", "test")
    }
    classes: dict[int, str] = {}
    found = []
    for part, entries in lists.items():
        for at, line in enumerate(entries, start=1):
            where = f"{folder / 'annotations' / part}.txt: line {at}"
            name, number, *_ = (*line.split(), "")
            label = integer(number, where, remedy) - 1
            classes[label] = name.rpartition("_")[0]
            if (part == "test") == (split == "test"):
                found.append((f"{name}.jpg", label, f"{name}.jpg"))
    return _rows(
        "pets", split, _in_order(classes, folder, remedy), folder / "images", found, remedy
    )


def flowers102(folder: pathlib.Path, split: str) -> Examples:
    """jpg/, imagelabels.mat and setid.mat; training is the official trnid (1,020), test tstid."""
    remedy = "get 102flowers.tgz, imagelabels.mat and setid.mat again"
    labels = matlab(folder / "imagelabels.mat", "labels", remedy).astype(int) - 1
    chosen = matlab(folder / "setid.mat", "trnid" if split == "train" else "tstid", remedy).astype(
        int
    )
    if chosen.min() < 1 or chosen.max() > len(labels):
        raise UserError(f"{folder / 'setid.mat'}: a picture without a label; {remedy}")
    names = [f"image_{i:05d}.jpg" for i in chosen]
    found = [(name, labels[i - 1], name) for name, i in zip(names, chosen, strict=True)]
    classes = CLASSES["flowers102"][: labels.max() + 1]
    return _rows("flowers102", split, classes, folder / "jpg", found, remedy)


def sun397(folder: pathlib.Path, split: str) -> Examples:
    """SUN397/ and Partitions/: the first of the ten official partitions, 50 + 50 pictures per class."""
    remedy = "extract SUN397.tar.gz and Partitions.zip again"
    lists = folder / "Partitions"
    classes = sorted(lines(lists / "ClassName.txt", remedy))
    numbers = _numbers(classes)
    listing = lists / f"{'Training' if split == 'train' else 'Testing'}_01.txt"
    found = [
        (key, number_of(key.rpartition("/")[0], numbers, str(listing), remedy), key.lstrip("/"))
        for key in lines(listing, remedy)
        if key not in SUN_UNREADABLE
    ]
    return _rows("sun397", split, classes, folder / "SUN397", found, remedy)


def cars(folder: pathlib.Path, split: str) -> Examples:
    """cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat; keys "00001"."""
    remedy = "get the devkit and cars_test_annos_withlabels.mat again"
    classes = [str(n) for n in matlab(folder / "devkit/cars_meta.mat", "class_names", remedy)]
    path = folder / (
        "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
    )
    annotations = matlab(path, "annotations", remedy)
    if "class" not in (annotations.dtype.names or ()):
        raise UserError(f"{path}: pictures without their class; {remedy}")
    found = [
        (str(row["fname"]).split(".")[0], int(row["class"]) - 1, str(row["fname"]))
        for row in annotations
    ]
    remedy = f"extract cars_{split}.tgz again"
    return _rows("cars", split, classes, folder / f"cars_{split}", found, remedy)


def dtd(folder: pathlib.Path, split: str) -> Examples:
    """dtd/{images,labels}: the first of the ten official folds, labels/train1.txt and test1.txt."""
    folder = place(folder, "dtd")
    remedy = "extract dtd-r1.0.1.tar.gz again"
    classes = subfolders(folder / "images", remedy)
    numbers = _numbers(classes)
    listing = folder / f"labels/{split}1.txt"
    found = [
        (name, number_of(name.partition("/")[0], numbers, str(listing), remedy), name)
        for name in lines(listing, remedy)
    ]
    return _rows("dtd", split, classes, folder / "images", found, remedy)


def caltech101(folder: pathlib.Path, split: str) -> Examples:
    """101_ObjectCategories/CLASS/image_0001.jpg; 30 pictures per class for training, the rest for testing.

    The set has no split, and that of TFDS depends on the order of a file system, so `ranked_split` draws ours.
    """
    folder = place(folder, "101_ObjectCategories")
    remedy = "extract 101_ObjectCategories.tar.gz again"
    return _by_class(
        "caltech101", folder, split, remedy, lambda name, file: f"{name.lower()}/{file}"
    )


def eurosat(folder: pathlib.Path, split: str) -> Examples:
    """2750/CLASS/CLASS_1.jpg (the RGB version); `ranked_split` draws 60% and 20%, like VTAB."""
    remedy = "extract EuroSAT.zip again"
    return _by_class("eurosat", place(folder, "2750"), split, remedy, lambda _name, file: file)


def resisc45(folder: pathlib.Path, split: str) -> Examples:
    """NWPU-RESISC45/CLASS/CLASS_001.jpg; `ranked_split` draws 60% and 20%, like VTAB."""
    remedy = "extract NWPU-RESISC45.rar again"
    return _by_class(
        "resisc45", place(folder, "NWPU-RESISC45"), split, remedy, lambda _name, file: file
    )


def aircraft(folder: pathlib.Path, split: str) -> Examples:
    """fgvc-aircraft-2013b/data: images_variant_train.txt (3,334) and _test.txt; keys "0034309".

    The copyright banner, the lowest 20 rows, is cut off.
    """
    folder = place(folder, "fgvc-aircraft-2013b/data")
    remedy = "extract fgvc-aircraft-2013b.tar.gz again"
    classes = lines(folder / "variants.txt", remedy)
    numbers = _numbers(classes)
    listing = folder / f"images_variant_{split}.txt"
    found = []
    for line in lines(listing, remedy):
        key, _, variant = line.partition(" ")
        label = number_of(variant.strip(), numbers, str(listing), remedy)
        found.append((key, label, f"{key}.jpg"))
    return _rows("aircraft", split, classes, folder / "images", found, remedy, _without_banner)


def retinopathy(folder: pathlib.Path, split: str) -> Examples:
    """train/, test/, trainLabels.csv and retinopathy_solution.csv; test is its Private part.

    Pictures as photographed are prepared as TFDS' btgraham-300 (retina.py).
    """
    if split == "train":
        path, remedy = folder / "trainLabels.csv", "extract train.zip and trainLabels.csv.zip again"
        listed = [(name, level) for name, level in table(path, ("image", "level"), remedy)]
    else:
        path, remedy = folder / "retinopathy_solution.csv", "get test.zip and the solution again"
        listed = [
            (name, level)
            for name, level, usage in table(path, ("image", "level", "Usage"), remedy)
            if usage == "Private"
        ]
    found = [
        (name, integer(level, f"{path}: {name}", remedy), f"{name}.jpeg") for name, level in listed
    ]
    classes = CLASSES["retinopathy"]
    return _rows("retinopathy", split, classes, folder / split, found, remedy, _retina)


def ucf101(folder: pathlib.Path, split: str) -> Examples:
    """frames/CLASS/VIDEO.jpg, the middle frames; ucfTrainTestlist/: the first official split.

    Keys are "CLASS/VIDEO" as in the lists. For one class, lists and archives differ in upper and lower case.
    """
    lists, frames = folder / "ucfTrainTestlist", folder / "frames"
    remedy = "extract UCF101TrainTestSplits-RecognitionTask.zip again"
    numbers: dict[str, int] = {}
    for at, line in enumerate(lines(lists / "classInd.txt", remedy), start=1):
        number, _, name = line.partition(" ")
        numbers[name] = integer(number, f"{lists / 'classInd.txt'}: line {at}", remedy) - 1
    classes = _in_order({i: name for name, i in numbers.items()}, lists / "classInd.txt", remedy)
    listing = lists / f"{split}list01.txt"
    remedy = "extract the frames again"
    there = {
        f"{name}/{file}".lower(): f"{name}/{file}"
        for name in subfolders(frames, remedy)
        for file in files(frames / name, (".jpg",), remedy)
    }
    found = []
    for line in lines(listing, remedy):
        key = line.split()[0].removesuffix(".avi")
        label = number_of(key.partition("/")[0], numbers, str(listing), remedy)
        found.append((key, label, there.get(f"{key}.jpg".lower(), f"{key}.jpg")))
    return _rows("ucf101", split, classes, frames, found, remedy)


def kinetics700(folder: pathlib.Path, split: str) -> Examples:
    """frames/{train,val}/ID_START_END.jpg, the middle frames; annotations/{train,val}.csv; test is val.

    Many videos are no longer available: those in missing.txt, one key per line, are left out.
    """
    lists, part = folder / "annotations", "train" if split == "train" else "val"
    remedy = "get the annotations again"
    columns = ("label", "youtube_id", "time_start", "time_end")
    tables = {"train": table(lists / "train.csv", columns, remedy)}
    if part == "val":
        tables["val"] = table(lists / "val.csv", columns, remedy)
    classes = sorted({row[0] for row in tables["train"]})
    numbers = _numbers(classes)
    lost_list = folder / "missing.txt"
    lost = set(lines(lost_list, remedy)) if lost_list.exists() else set()
    found = []
    for name, video, start, end in tables[part]:
        where = f"{lists / part}.csv: {video}"
        begins, ends = (round(_seconds(t, where, remedy)) for t in (start, end))
        key = f"{video}_{begins:06d}_{ends:06d}"
        if key not in lost:
            found.append((key, number_of(name, numbers, where, remedy), f"{key}.jpg"))
    remedy = f"extract its frame, or name those that are lost in {lost_list}"
    return _rows("kinetics700", split, classes, folder / "frames" / part, found, remedy)


def gtsrb(folder: pathlib.Path, split: str) -> Examples:
    """GTSRB/Final_Training/Images/00000/{00000_00000.ppm,GT-00000.csv}, Final_Test/Images, GT-final_test.csv."""
    folder = place(folder, "GTSRB")
    remedy = f"extract GTSRB_Final_{'Training' if split == 'train' else 'Test'}_Images.zip again"
    classes = subfolders(folder / "Final_Training/Images", remedy)
    if split == "train":
        root = folder / "Final_Training/Images"
        listings = {root / name / f"GT-{name}.csv": f"{name}/" for name in classes}
    else:
        root = folder / "Final_Test/Images"
        labels = folder / "GT-final_test.csv"
        # The archive with the labels has no folder of its own.
        listings = {labels if labels.exists() else folder.parent / labels.name: ""}
    found = []
    for path, prefix in listings.items():
        told = remedy if split == "train" else "extract GTSRB_Final_Test_GT.zip again"
        for name, label in table(path, ("Filename", "ClassId"), told, ";"):
            found.append((prefix + name, integer(label, f"{path}: {name}", told), prefix + name))
    names = CLASSES["gtsrb"][: len(classes)]
    return _rows("gtsrb", split, names, root, found, remedy, ppm)


def ppm(path: str, _key: str) -> np.ndarray:
    """The picture in a binary 8-bit PPM file, the format of GTSRB, which `decode` refuses."""
    try:
        with open(path, "rb") as file:
            data = file.read(3 * MAX_PPM_SIDE**2 + 512)
    except OSError as error:
        raise CorruptSample(path, "unreadable file", error.strerror or "") from error
    head = re.match(rb"P6\s+(\d{1,9})\s+(\d{1,9})\s+255\s", data)
    if head is None:
        raise CorruptSample(path, "unknown format", "no binary PPM of 8 bits")
    width, height = int(head[1]), int(head[2])
    if not (0 < width <= MAX_PPM_SIDE and 0 < height <= MAX_PPM_SIDE):
        raise CorruptSample(path, "too many pixels", f"{width} x {height}")
    pixels = data[head.end() : head.end() + 3 * width * height]
    if len(pixels) < 3 * width * height:
        raise CorruptSample(path, "truncated picture")
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3).copy()


def _rows(
    name: str,
    split: str,
    classes: Sequence[str],
    folder: pathlib.Path,
    found: Iterable[tuple[str, Any, str]],
    remedy: str,
    picture: Callable[[str, str], np.ndarray] = file_picture,
) -> Examples:
    """Examples of (key, label, file in `folder`), all of whose files are there."""
    found = list(found)
    check_listed(folder, [file for _, _, file in found], remedy)
    rows = [Example(key, int(label), file) for key, label, file in found]
    opened = functools.partial(_in_folder, str(folder), picture)
    return Examples(
        name, split, classes, rows, opened, functools.partial(os.path.join, str(folder))
    )


def _in_folder(
    folder: str, picture: Callable[[str, str], np.ndarray], file: str, key: str
) -> np.ndarray:
    return picture(f"{folder}/{file}", key)


def _by_class(
    name: str, folder: pathlib.Path, split: str, remedy: str, key_of: Callable[[str, str], str]
) -> Examples:
    """Examples of a set without lists that has one folder per class; SPLITS gives its split."""
    classes = subfolders(folder, remedy)
    found = []
    # In the alphabetical order by which TFDS numbers the classes: BACKGROUND_Google comes after anchor.
    ordered = sorted(classes, key=str.lower) if name == "caltech101" else classes
    for label, inner in enumerate(ordered):
        pictures = files(folder / inner, (".jpg", ".jpeg"), remedy)
        if not pictures:
            raise UserError(f"{folder / inner}: class without pictures; {remedy}")
        found += [(key_of(inner, file), label, f"{inner}/{file}") for file in pictures]
    part = ranked_split([key for key, _, _ in found], [n for _, n, _ in found], *SPLITS[name])
    wanted = 0 if split == "train" else 2
    rows = [row for row, p in zip(found, part, strict=True) if p == wanted]
    names = [inner.lower() for inner in ordered] if name == "caltech101" else ordered
    return _rows(name, split, names, folder, rows, remedy)


def _without_banner(path: str, _key: str) -> np.ndarray:
    return np.ascontiguousarray(decode(path, path)[:-20])


def _retina(path: str, _key: str) -> np.ndarray:
    return rescaled(decode(path, path))


def _numbers(classes: Sequence[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(classes)}


def _in_order(classes: dict[int, str], where: pathlib.Path, remedy: str) -> list[str]:
    if sorted(classes) != list(range(len(classes))):
        raise UserError(f"{where}: class numbers have gaps; {remedy}")
    return [classes[i] for i in range(len(classes))]


def _seconds(value: str, where: str, remedy: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{where}: '{value[:40]}' is not a time; {remedy}") from None
