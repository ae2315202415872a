"""ImageNet, read at random from its tar files without extracting them.

ILSVRC2012_img_train.tar holds one tar per class. The place of each picture in the outer file is found once, from the
headers alone, and kept in a small index beside the tar. Only plain members are read. Links, devices, extended headers
and names that are not ImageNet pictures are refused.
"""

import logging
import operator
import os
import pathlib
import re
import zipfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.gvb.classification.examples import Example, Examples
from intern_jax.data.read import archives
from intern_jax.data.read.archives import Member
from intern_jax.data.read.decoding import decode
from intern_jax.data.read.lists import integer, lines, matlab, place
from intern_jax.data.schema.sample import one_line

log = logging.getLogger(__name__)

CLASS_TAR = re.compile(r"n\d{8}\.tar")
TRAIN_PICTURE = re.compile(r"n\d{8}_\d{1,7}\.JPEG")
TEST_PICTURE = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")


def imagenet(folder: pathlib.Path, split: str) -> Examples:
    """ILSVRC2012_img_train.tar or _val.tar (test), and ILSVRC2012_devkit_t12/data for synsets and answers.

    Classes are WordNet ids in their order, as TFDS numbers them; keys are the pictures' names.
    """
    remedy = "extract ILSVRC2012_devkit_t12.tar.gz again"
    devkit = place(folder, "ILSVRC2012_devkit_t12") / "data"
    synsets = matlab(devkit / "meta.mat", "synsets", remedy)
    # The numbers from 1001 on are inner nodes of the hierarchy, without pictures.
    of_number = {
        int(row["ILSVRC2012_ID"]): str(row["WNID"])
        for row in synsets
        if not int(row["num_children"])
    }
    classes = sorted(of_number.values())
    labels = {wnid: i for i, wnid in enumerate(classes)}
    if split == "train":
        tar = folder / "ILSVRC2012_img_train.tar"
        members = _indexed(tar, TRAIN_PICTURE, nested=True)
        found = [(m, labels.get(m.name.partition("_")[0], -1)) for m in members]
        _check_classes(tar, found, labels)
    else:
        tar = folder / "ILSVRC2012_img_val.tar"
        members = sorted(_indexed(tar, TEST_PICTURE, nested=False))
        found = list(zip(members, _answers(devkit, len(members), of_number, labels), strict=True))
    rows = [Example(m.name, label, (str(tar), m.offset, m.size)) for m, label in found]
    return Examples("imagenet", split, classes, rows, _picture, operator.itemgetter(0))


def _answers(
    devkit: pathlib.Path, count: int, of_number: dict[int, str], labels: dict[str, int]
) -> list[int]:
    """Labels of the validation pictures in the order of their names."""
    path, remedy = devkit / "ILSVRC2012_validation_ground_truth.txt", "get the devkit again"
    answers = [integer(line, str(path), remedy) for line in lines(path, remedy)]
    if len(answers) != count:
        raise UserError(
            f"{path}: {len(answers)} answers for {count} pictures in ILSVRC2012_img_val.tar;"
            " get the shorter one again"
        )
    unknown = [a for a in answers if a not in of_number]
    if unknown:
        raise UserError(f"{path}: {unknown[0]} is not a number of meta.mat; {remedy}")
    return [labels[of_number[a]] for a in answers]


def _check_classes(
    tar: pathlib.Path, found: list[tuple[Member, int]], labels: dict[str, int]
) -> None:
    unknown = [m.name for m, label in found if label < 0]
    if unknown:
        raise UserError(f"{tar}: '{unknown[0]}' is of no class of the devkit; get both again")
    absent = sorted(set(labels.values()) - {label for _, label in found})
    if absent:
        name = sorted(labels)[absent[0]]
        raise UserError(
            f"{tar}: {name}.tar is missing or empty; {len(absent)} of {len(labels)} classes are not"
            " there; get ILSVRC2012_img_train.tar again"
        )


def _picture(item: tuple[str, int, int], key: str) -> np.ndarray:
    path, offset, size = item
    return decode(archives.read_at(path, offset, size, key), f"{path}: {key}")


def _indexed(tar: pathlib.Path, names: re.Pattern[str], nested: bool) -> list[Member]:
    """The tar's pictures; they come from the index beside it, if that was made from this very file."""
    try:
        found = tar.stat()
    except OSError:
        raise UserError(f"{tar}: missing; get {tar.name} from image-net.org") from None
    stamp = np.array([found.st_size, found.st_mtime_ns], np.int64)
    index = tar.with_name(f"{tar.name}.index.npz")
    members = _read_index(index, stamp, names)
    if members is None:
        try:
            with open(tar, "rb") as file:
                members = list(_pictures(file, tar, found.st_size, names, nested))
        except OSError as error:
            raise UserError(f"{tar}: cannot be read ({one_line(error)}); get it again") from error
        _write_index(index, stamp, members)
    return members


def _pictures(
    file: BinaryIO, tar: pathlib.Path, size: int, names: re.Pattern[str], nested: bool
) -> Iterator[Member]:
    for outer in archives.members(file, tar, 0, size):
        inside: Iterable[Member] = [outer]
        if nested:
            _check_name(tar, outer.name, CLASS_TAR)
            inside = archives.members(file, tar, outer.offset, outer.offset + outer.size)
        for member in inside:
            _check_name(tar, member.name, names)
            if nested and not member.name.startswith(outer.name[:-4]):
                raise UserError(f"{tar}: '{member.name}' lies in {outer.name}; get it again")
            yield member


def _check_name(tar: pathlib.Path, name: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(name):
        raise UserError(
            f"{tar}: '{name[:60]}' is not a file of this data set; get {tar.name} again"
        )


def _read_index(
    path: pathlib.Path, stamp: np.ndarray, names: re.Pattern[str]
) -> list[Member] | None:
    try:
        with np.load(path, allow_pickle=False) as content:
            if not np.array_equal(content["stamp"], stamp):
                return None
            found = [
                Member(name.decode("ascii"), int(offset), int(size))
                for name, offset, size in zip(
                    content["names"], content["offsets"], content["sizes"], strict=True
                )
            ]
    except (OSError, ValueError, KeyError, EOFError, UnicodeDecodeError, zipfile.BadZipFile):
        return None
    ok = all(
        names.fullmatch(m.name) and 0 < m.offset <= m.offset + m.size <= stamp[0] for m in found
    )
    return found if ok else None


def _write_index(path: pathlib.Path, stamp: np.ndarray, members: list[Member]) -> None:
    """Keep the index for the next time. If the folder cannot be written, the index is made each time."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(
                file,
                stamp=stamp,
                names=np.array([m.name.encode("ascii") for m in members]),
                offsets=np.array([m.offset for m in members], np.int64),
                sizes=np.array([m.size for m in members], np.int64),
            )
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        log.warning("%s: not kept (%s); the tar is read again next time", path, one_line(error))
