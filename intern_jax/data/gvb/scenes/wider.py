"""WIDER FACE: Yang et al., WIDER FACE: A Face Detection Benchmark, CVPR 2016; tested on its val part.

Only the authors' evaluation tools say which faces count in the easy, medium and hard figures. For
each picture in wider_face_val.mat, wider_{easy,medium,hard}_val.mat list the numbers, from 1, of the
faces that count (`gt_list`).
"""

import itertools
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.gvb.scenes.detection import Objects, PictureFiles
from intern_jax.data.read import annotations as reading
from intern_jax.data.read.lists import check_listed, integer, lines
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample

log = logging.getLogger(__name__)

PARTS = {"train": "train", "test": "val"}
LEVELS = ("easy", "medium", "hard")
# x, y, width, height, blur, expression, illumination, invalid, occlusion, pose
VALUES = 10
INVALID = 7
MAX_MAT = 64 << 20
UNPACK = "unpack WIDER_train.zip, WIDER_val.zip and wider_face_split.zip there"
UNPACK_TOOLS = "unpack eval_tools.zip again"


def read(root: pathlib.Path, split: str) -> "WiderFace":
    """WIDER_train (train) or WIDER_val (test) with the faces of wider_face_split."""
    folder, part = reading.first_folder([root / "wider_face"], UNPACK), PARTS[split]
    path = folder / f"wider_face_split/wider_face_{part}_bbx_gt.txt"
    faces = read_faces(path)
    levels = None
    if split == "test":
        levels = _levels(folder, faces)
    return WiderFace(folder / f"WIDER_{part}/images", faces, levels)


class WiderFace(PictureFiles):
    """Pictures with faces, in the order of their list; a key is like "0--Parade/0_Parade_Parade_0_452".

    `objects` ignores faces that are marked invalid. It keeps faces of size 0, so that face i is the
    i-th of its list. If the evaluation tools are there, it adds easy, medium and hard, each bool [N].
    A face that is false in one of them is ignored in that figure, whatever `ignore` says. `levels`
    names those that are there.
    """

    def __init__(
        self,
        images: pathlib.Path,
        faces: dict[str, np.ndarray],
        levels: Mapping[str, Sequence[np.ndarray]] | None = None,
        name: str = "wider_face",
    ):
        check_listed(images, list(faces), UNPACK)
        keys = [key.rpartition(".")[0] for key in faces]
        super().__init__(name, ("face",), keys, [images / key for key in faces])
        self._faces, self._levels = list(faces.values()), levels or {}
        self.levels = tuple(self._levels)

    def objects(self, index: int) -> Objects:
        faces = self._faces[index]
        corner, size = faces[:, :2], faces[:, 2:4]
        return {
            "boxes": np.concatenate([corner, corner + size], axis=1).astype(np.float32),
            "labels": np.zeros(len(faces), np.int32),
            "ignore": faces[:, INVALID] == 1,
        } | {level: counts[index] for level, counts in self._levels.items()}

    def fingerprint(self) -> str:
        """A digest of the files of the pictures, of the faces, and of which faces count."""
        faces = [*self._faces, *(found for level in self._levels.values() for found in level)]
        return fingerprints.combine(super().fingerprint(), self.levels, *map(np.asarray, faces))


def read_faces(path: pathlib.Path) -> dict[str, np.ndarray]:
    """{name of a picture: faces int32 [N, VALUES]} from a wider_face_*_bbx_gt.txt.

    In these files a picture with 0 faces still has one line of zeros.
    """
    faces: dict[str, np.ndarray] = {}
    entries = iter(enumerate(lines(path, UNPACK), start=1))
    for number, name in entries:
        if not name.endswith(".jpg") or name in faces:
            what = "is there twice" if name in faces else "is not a picture"
            raise UserError(f"{path}: entry {number} '{name[:80]}' {what}; {UNPACK}")
        faces[name] = _read_picture(entries, f"{path}/{name}")
    return faces


def _read_picture(entries: Iterator[tuple[int, str]], where: str) -> np.ndarray:
    _, told = next(entries, (0, ""))
    count = integer(told, where, UNPACK)
    rows = [line.split()[:VALUES] for _, line in itertools.islice(entries, max(count, 1))]
    try:
        found = np.asarray(rows, np.int32).reshape(-1, VALUES)[:count]
    except (ValueError, OverflowError):
        found = np.empty((0, VALUES), np.int32)
    if len(found) != count:
        raise UserError(f"{where}: no {count} lines of {VALUES} whole numbers; {UNPACK}")
    return found


def _levels(
    folder: pathlib.Path, faces: dict[str, np.ndarray]
) -> dict[str, list[np.ndarray]] | None:
    """Which faces count in each level, bool [N] for each picture; None without the tools' files."""
    bases = (folder / "eval_tools/ground_truth", folder / "ground_truth")
    base = next((base for base in bases if base.is_dir()), None)
    if base is None:
        log.warning(
            "%s: no such folder, so no easy, medium and hard; unpack eval_tools.zip", bases[0]
        )
        return None
    names = _names(base / "wider_face_val.mat")
    missing = [name for name in faces if name not in names]
    if missing:
        raise UserError(f"{base / 'wider_face_val.mat'}: has no '{missing[0]}'; {UNPACK_TOOLS}")
    return {level: _level(base / f"wider_{level}_val.mat", names, faces) for level in LEVELS}


def _names(path: pathlib.Path) -> dict[str, tuple[int, int]]:
    """(event, picture) of each name."""
    found = _read_mat(path, ["event_list", "file_list"])
    try:
        return {
            f"{event[0]}/{name[0]}.jpg": (i, j)
            for i, event in enumerate(found["event_list"][:, 0])
            for j, name in enumerate(found["file_list"][i, 0][:, 0])
        }
    except (IndexError, TypeError) as error:
        raise UserError(f"{path}: no lists of events and files; {UNPACK_TOOLS}") from error


def _level(
    path: pathlib.Path, names: dict[str, tuple[int, int]], faces: dict[str, np.ndarray]
) -> list[np.ndarray]:
    lists = _read_mat(path, ["gt_list"])["gt_list"]
    counts = []
    for name, found in faces.items():
        event, picture = names[name]
        try:
            chosen = np.asarray(lists[event, 0][picture, 0], np.int64).reshape(-1) - 1
            counts.append(np.zeros(len(found), np.bool_))
            if (chosen < 0).any():
                raise IndexError
            counts[-1][chosen] = True
        except (IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: other faces of {name} than the {len(found)} listed; {UNPACK_TOOLS}"
            ) from error
    return counts


def _read_mat(path: pathlib.Path, variables: list[str]) -> dict[str, np.ndarray]:
    try:
        return reading.read_mat(path, variables, MAX_MAT)
    except CorruptSample as error:
        raise UserError(f"{error}; {UNPACK_TOOLS}") from error
