"""WIDER FACE: Yang et al., WIDER FACE: A Face Detection Benchmark, CVPR 2016.

Its lists give x, y, width and height of each face, and six attributes. Faces that are marked invalid are ignored.
"""

import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.detection.objects import Objects, PictureFiles
from intern_jax.data.read.lists import check_listed, integer, lines
from intern_jax.data.schema import fingerprints

SPLITS = ("train", "val")  # the test split has no published faces
LISTS = "wider_face_split"
# x, y, width, height, blur, expression, illumination, invalid, occlusion, pose
VALUES = 10
INVALID = 7
UNPACK = "unpack WIDER_train.zip, WIDER_val.zip and wider_face_split.zip there"


def open_wider(
    data: str | pathlib.Path, split: str = "train", name: str = "wider_face"
) -> "WiderFace":
    """The split "train" or "val" of a folder with wider_face_split and WIDER_train or WIDER_val."""
    if split not in SPLITS:
        raise UserError(f"{data}/split: '{split}'; known: {', '.join(SPLITS)}")
    folder = pathlib.Path(data)
    faces = read_faces(folder / LISTS / f"wider_face_{split}_bbx_gt.txt")
    return WiderFace(folder / f"WIDER_{split}" / "images", faces, name=name)


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

    def annotated(self, index: int) -> Objects:
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
