"""WIDER FACE: Yang et al., WIDER FACE: A Face Detection Benchmark, CVPR 2016; tested on its val part.

Only the authors' evaluation tools say which faces count in the easy, medium and hard figures. For
each picture in wider_face_val.mat, wider_{easy,medium,hard}_val.mat list the numbers, from 1, of the
faces that count (`gt_list`).
"""

import logging
import pathlib

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.detection.wider import UNPACK, WiderFace, read_faces
from intern_jax.data.read import annotations as reading
from intern_jax.data.schema.sample import CorruptSample

log = logging.getLogger(__name__)

PARTS = {"train": "train", "test": "val"}
LEVELS = ("easy", "medium", "hard")
MAX_MAT = 64 << 20
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
