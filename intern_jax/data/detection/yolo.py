"""Pictures with text files of boxes, as YOLO's programs read them: a line "class cx cy w h" a box, in fractions.

| file | holds |
|---|---|
| data.yaml, or another .yaml | `names` of the classes, a list or {number: name}; `path`; `train`, `val`, `test` |
| classes.txt | or else the names, one a line |
| images/.../NAME.jpg | pictures; `train` and the others name a folder or a list of them |
| labels/.../NAME.txt | the boxes of each: the last "images" of its path is "labels"; a picture may have no such file |

A line with more than six values is an outline, "class x y x y ...", whose box is taken. Numbers are of the upright
picture, as the programs that write and read these files show it.
"""

import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from intern_jax.core.config import UserError
from intern_jax.data.detection.listed import Listed, ObjectRows, clipped
from intern_jax.data.read.annotations import read_bytes
from intern_jax.data.read.formats import EXTENSIONS
from intern_jax.data.read.lists import lines
from intern_jax.data.read.opened import Inside, Path, check_some, stem
from intern_jax.data.read.walking import is_picture, walk
from intern_jax.data.schema.sample import CorruptSample, one_line

log = logging.getLogger(__name__)

SETTINGS, YAML, NAMES = "data.yaml", (".yaml", ".yml"), "classes.txt"
SPLITS = ("train", "val", "test")
MAX_YAML = 4 << 20
REMEDY = "give a folder with images/, labels/ and data.yaml or classes.txt"


class Yolo(Listed):
    """A folder, or its .yaml file, of YOLO's layout.

    `split` is one that the .yaml names, "train" by default; of a folder with classes.txt alone, a folder in images/, or
    all of images/. `classes` are the names in order, where neither file gives them. `root` is the folder of the
    pictures and boxes, if it is not that of the .yaml. `refused` counts lines that are no boxes.
    """

    fractions = upright = True

    def __init__(
        self,
        data: Path,
        split: str | None = None,
        classes: Sequence[str] | None = None,
        root: Path | None = None,
        name: str | None = None,
    ):
        super().__init__()
        given = pathlib.Path(data)
        self.name = name or stem(given.parent if given.is_file() else given)
        settings = _find_settings(given)
        folder = given if given.is_dir() else given.parent
        content = {} if settings is None else _read_yaml(settings)
        named = folder / NAMES
        if classes is None and settings is not None:
            classes = _names(content, settings)
        elif classes is None:
            classes = lines(named, REMEDY)
        inside = Inside(folder, root)
        pictures = sorted(self._pictures(inside, content, split, settings or named))
        check_some(len(pictures), folder, "picture", self.refused)
        notes = [_labels_of(path) for path in pictures]
        rows = ObjectRows()
        for owner, note in enumerate(notes):
            if note is not None:
                self._read(owner, note, len(classes), rows)
        base = os.path.commonpath([os.path.abspath(path.parent) for path in pictures])
        keys = [
            pathlib.Path(os.path.relpath(os.path.abspath(path), base)).as_posix()
            for path in pictures
        ]
        lists = [path for path in (settings or named,) if path.is_file()]
        self.take(classes, keys, pictures, rows, lists, notes)

    def _pictures(
        self, inside: Inside, content: dict[str, Any], split: str | None, where: pathlib.Path
    ) -> list[pathlib.Path]:
        """The pictures of a split."""
        known = [name for name in SPLITS if content.get(name)]
        if not known:
            folder = inside.path("images") if split is None else inside.path(f"images/{split}")
            if not folder.is_dir():
                raise UserError(f"{folder}: no such folder; {REMEDY}")
            return self._below(folder)
        chosen = split or known[0]
        if chosen not in known:
            raise UserError(f"{where}/split: '{chosen}'; known: {', '.join(known)}")
        if split is None and len(known) > 1:
            log.info("%s: split %s of %s", where, chosen, ", ".join(known))
        places = content[chosen] if isinstance(content[chosen], list) else [content[chosen]]
        found: list[pathlib.Path] = []
        for place in map(str, places):
            at = _place(inside, str(content.get("path") or ""), place, f"{where}/{chosen}")
            found += self._below(at) if at.is_dir() else self._listed(inside, at)
        return list(dict.fromkeys(found))

    def _below(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """The pictures at any depth in a folder. Boxes may lie beside them."""
        found = walk(folder, self.passed, (".txt", *EXTENSIONS))
        return [path for path in found if is_picture(path)]

    def _listed(self, inside: Inside, path: pathlib.Path) -> list[pathlib.Path]:
        """The pictures of a list, relative to the folder of all."""
        found = []
        for line in lines(path, REMEDY):
            key = inside.key(line.removeprefix("./"))
            if key is None:
                self.passed.add("path that leads outside", f"{path}: {line[:80]}")
            else:
                found.append(inside.path(key))
        return found

    def _read(self, owner: int, note: pathlib.Path, count: int, rows: ObjectRows) -> None:
        try:
            text = read_bytes(note, str(note)).decode("utf-8-sig")
        except (CorruptSample, UnicodeDecodeError):
            self.passed.add("unreadable file of boxes", str(note))
            return
        seen = set()
        for number, line in enumerate(text.splitlines(), start=1):
            values = line.split()
            if not values:
                continue
            where = f"{note}: line {number}"
            label, corners, cause = _box(values, count)
            cause = cause or ("box that is there twice" if (label, *corners) in seen else None)
            if cause:
                self.passed.add(cause, where)
            else:
                seen.add((label, *corners))
                rows.add(owner, corners, label)


def _find_settings(data: pathlib.Path) -> pathlib.Path | None:
    """The .yaml of a path, if there is one: the file itself, data.yaml in a folder, or its only other .yaml."""
    if data.is_file():
        return data if data.suffix in YAML else None
    if (data / SETTINGS).is_file():
        return data / SETTINGS
    found = [path for path in sorted(data.glob("*.y*ml")) if path.suffix in YAML]
    return found[0] if len(found) == 1 else None


def _read_yaml(path: pathlib.Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(read_bytes(path, str(path), MAX_YAML))
    except (CorruptSample, yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: no readable YAML ({one_line(error)}); correct it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: no fields; {REMEDY}")
    return content


def _names(content: dict[str, Any], path: pathlib.Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(len(names)))):
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}/names: {str(names)[:60]!r}; give a list, or names by 0, 1, 2 ...")
    return [str(name) for name in names]


def _place(inside: Inside, base: str, place: str, where: str) -> pathlib.Path:
    """A folder or list that a .yaml names: below its `path`, or else below the folder of the .yaml itself.

    Published files name the folder of another machine, or "../train/images" from a folder that is not there.
    """
    for name in (f"{base}/{place}", place, place.removeprefix("../")):
        key = inside.key(name)
        if key is not None and inside.path(key).exists():
            return inside.path(key)
    raise UserError(
        f"{where}: '{place[:80]}' is not below {inside.folder}; correct it, or give its folder as root"
    )


def _labels_of(picture: pathlib.Path) -> pathlib.Path | None:
    """The file of a picture's boxes, if it is there."""
    parts = list(picture.with_suffix(".txt").parts)
    at = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if at:
        parts[at[-1]] = "labels"
    path = pathlib.Path(*parts)
    return path if path.is_file() else None


def _box(values: Sequence[str], count: int) -> tuple[int, list[float], str | None]:
    """(class, corners as fractions, why it is no box) of a line."""
    try:
        label, *numbers = (float(value) for value in values)
    except ValueError:
        return -1, [], "line that is not numbers"
    if not label.is_integer() or not 0 <= label < count:
        return -1, [], "box of an unknown class"
    if len(numbers) == 4:
        x, y, w, h = numbers
        corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    elif len(numbers) > 5 and len(numbers) % 2 == 0:
        xs, ys = numbers[::2], numbers[1::2]
        corners = [min(xs), min(ys), max(xs), max(ys)]
    else:
        return -1, [], "line that is not class, x, y, width, height"
    return int(label), *clipped(corners, (1.0, 1.0))
