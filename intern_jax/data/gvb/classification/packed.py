"""Readers of data sets that are a few large files: CIFAR's binary version, SVHN's .mat, FER2013's CSV.

A picture is read from its place in the file on demand; keys and labels come from one pass.
"""

import functools
import mmap
import operator
import pathlib
import threading

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.gvb.classification.class_names import CLASSES
from intern_jax.data.gvb.classification.examples import Example, Examples
from intern_jax.data.read.archives import read_at
from intern_jax.data.read.lists import lines, matlab, place
from intern_jax.data.schema.sample import CorruptSample

CIFAR_PIXELS = 3 * 32 * 32
FER_SIDE = 48
FER_USAGE = {"train": "Training", "test": "PrivateTest"}


def cifar10(folder: pathlib.Path, split: str) -> Examples:
    """cifar-10-batches-bin/: the binary version; keys "train_00000", "test_00000" in the files' order."""
    files = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    remedy = "extract cifar-10-binary.tar.gz (the binary version) again"
    folder = place(folder, "cifar-10-batches-bin")
    return _cifar("cifar10", split, folder, files, "batches.meta.txt", 1, remedy)


def cifar100(folder: pathlib.Path, split: str) -> Examples:
    """cifar-100-binary/: the binary version with its 100 fine labels; keys as CIFAR-10's."""
    remedy = "extract cifar-100-binary.tar.gz (the binary version) again"
    folder = place(folder, "cifar-100-binary")
    return _cifar("cifar100", split, folder, [f"{split}.bin"], "fine_label_names.txt", 2, remedy)


def _cifar(
    name: str,
    split: str,
    folder: pathlib.Path,
    files: list[str],
    names: str,
    label_bytes: int,
    remedy: str,
) -> Examples:
    """Examples of records of `label_bytes` labels (the last one counts) and 3 planes of 32 x 32 bytes."""
    classes = lines(folder / names, remedy)
    size = label_bytes + CIFAR_PIXELS
    rows: list[Example] = []
    for file in files:
        path = folder / file
        data = _bytes(path, remedy)
        if len(data) % size:
            raise UserError(f"{path}: {len(data)} bytes are not whole records of {size}; {remedy}")
        labels = data.reshape(-1, size)[:, label_bytes - 1]
        for i, label in enumerate(labels.tolist()):
            place_of = (str(path), i * size + label_bytes)
            rows.append(Example(f"{split}_{len(rows):05d}", label, place_of))
    return Examples(name, split, classes, rows, _planes, operator.itemgetter(0))


def _bytes(path: pathlib.Path, remedy: str) -> np.ndarray:
    try:
        return np.memmap(path, np.uint8, "r")
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {remedy}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from error


def _planes(item: tuple[str, int], key: str) -> np.ndarray:
    path, offset = item
    data = read_at(path, offset, CIFAR_PIXELS, key)
    planes = np.frombuffer(data, np.uint8).reshape(3, 32, 32)
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def svhn(folder: pathlib.Path, split: str) -> Examples:
    """train_32x32.mat and test_32x32.mat (the cropped digits); keys "train_000000"; label 10 is digit 0."""
    path = folder / f"{split}_32x32.mat"
    remedy = f"get {path.name} again"
    labels = matlab(path, "y", remedy).astype(int) % 10
    rows = [Example(f"{split}_{i:06d}", int(label), i) for i, label in enumerate(labels)]
    pictures, file_of = _MatPictures(path, remedy), functools.partial(_one_file, str(path))
    return Examples("svhn", split, CLASSES["svhn"], rows, pictures, file_of)


def _one_file(path: str, _item: object) -> str:
    return path


class _MatPictures:
    """Pictures of one .mat file; the first request reads the whole file (about 225 MB)."""

    def __init__(self, path: pathlib.Path, remedy: str):
        self._path, self._remedy = path, remedy
        self._pictures: np.ndarray | None = None
        self._lock = threading.Lock()

    def __call__(self, item: int, _key: str) -> np.ndarray:
        with self._lock:
            if self._pictures is None:
                self._pictures = self._read()
        return np.ascontiguousarray(self._pictures[..., item])

    def _read(self) -> np.ndarray:
        found = matlab(self._path, "X", self._remedy)
        if found.ndim != 4 or found.shape[:3] != (32, 32, 3) or found.dtype != np.uint8:
            raise UserError(f"{self._path}: 'X' is not uint8 [32,32,3,N]; {self._remedy}")
        return found

    def __getstate__(self) -> tuple[pathlib.Path, str]:
        return self._path, self._remedy

    def __setstate__(self, state: tuple[pathlib.Path, str]) -> None:
        _MatPictures.__init__(self, *state)


def fer2013(folder: pathlib.Path, split: str) -> Examples:
    """fer2013.csv or icml_face_data.csv; Training is for training, PrivateTest the official test.

    Keys are the usage and the place among its rows, "Training_00000". The pixel column (48 x 48 grey
    values) is read when a picture is asked for.
    """
    remedy = "extract fer2013.tar.gz (or icml_face_data.csv) again"
    names = ("fer2013.csv", "fer2013/fer2013.csv", "icml_face_data.csv")
    path = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    usage = FER_USAGE[split].encode()
    rows: list[Example] = []
    with _mapped(path, remedy) as data:
        header = data.readline()
        columns = [name.strip().strip(b'"') for name in header.split(b",")]
        if sorted(columns) != [b"Usage", b"emotion", b"pixels"]:
            raise UserError(f"{path}: no columns emotion, pixels, Usage; {remedy}")
        of = {name.decode(): i for i, name in enumerate(columns)}
        while line := data.readline():
            begin = data.tell() - len(line)
            fields = line.split(b",")
            if not line.strip():
                continue
            if len(fields) != 3 or not fields[of["emotion"]].strip(b' "').isdigit():
                raise UserError(f"{path}: no three columns at byte {begin}; {remedy}")
            if fields[of["Usage"]].strip(b' "\r\n') == usage:
                key = f"{FER_USAGE[split]}_{len(rows):05d}"
                label = int(fields[of["emotion"]].strip(b' "'))
                rows.append(Example(key, label, (begin, len(line))))
    picture = functools.partial(_pixel_column, str(path), of["pixels"])
    file_of = functools.partial(_one_file, str(path))
    return Examples("fer2013", split, CLASSES["fer2013"], rows, picture, file_of)


def _mapped(path: pathlib.Path, remedy: str) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {remedy}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from error


def _pixel_column(path: str, column: int, item: tuple[int, int], key: str) -> np.ndarray:
    fields = read_at(path, *item, key).split(b",")
    values = fields[column].strip(b' "\r\n').split()
    try:
        grey = np.array(values, np.int64)
    except (ValueError, OverflowError):
        raise CorruptSample(f"{path}: {key}", "damaged picture", "no numbers") from None
    if grey.size != FER_SIDE**2 or grey.min() < 0 or grey.max() > 255:
        raise CorruptSample(f"{path}: {key}", "damaged picture", "no 48 x 48 values of 0..255")
    return np.repeat(grey.astype(np.uint8).reshape(FER_SIDE, FER_SIDE, 1), 3, axis=2)
