"""What the folders of labelled pictures mean: classes, splits with class folders in them, or a level more of either."""

import itertools
import logging
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence

from intern_jax.core.config import UserError
from intern_jax.data.read.formats import NAMES
from intern_jax.data.read.walking import (
    PassedOver,
    has_pictures,
    has_pictures_inside,
    in_worker,
    is_picture,
    listed,
)

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_CALLED = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NO_SPLIT = "none"
SHOWN = 4  # folders that a message names

# {folder of class folders: {class: its pictures}}
Found = Mapping[pathlib.Path, Mapping[str, Sequence[pathlib.Path]]]


def find_splits(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """{split: its folder} in the order of SPLITS, where the folders of a folder are splits; empty where they are not.

    They are if they are called so, hold folders with pictures, and are two at least or alone with pictures. UserError
    where all that are called so hold pictures without class folders, or where two are one split.
    """
    _, folders = listed(root, PassedOver())
    called = [(_CALLED.get(one.name.casefold()), one) for one in folders]
    named = [one for split, one in called if split is not None]
    others = (one for split, one in called if split is None)
    if not named or (
        len(named) < 2 and any(has_pictures(one) or has_pictures_inside(one) for one in others)
    ):
        return {}
    found: dict[str, pathlib.Path] = {}
    for split, one in called:
        # Test pictures without labels, in no class folders, often lie beside the others.
        if split is None or not has_pictures_inside(one):
            continue
        if split in found:
            raise UserError(
                f"{root}: {found[split].name} and {one.name} are both the split {split}; join them, or rename one"
            )
        found[split] = one
    if not found and any(has_pictures(one) for one in named):
        raise UserError(
            f"{root}: {_names(named)} are called like splits and hold pictures without class folders; sort the"
            f" pictures into a folder per class, or say split={NO_SPLIT} if these are the classes"
        )
    return {split: found[split] for split in SPLITS if split in found}


def chosen_splits(
    root: pathlib.Path, there: Mapping[str, pathlib.Path], split: str | None
) -> list[str]:
    """The splits that `split` names, as in "train+val"; "train" by default. UserError for one that is not there."""
    if split is None and "train" not in there:
        raise UserError(
            f"{root}: has no split train; say which to read with split={'+'.join(there)}"
        )
    wanted = (split or "train").split("+")
    for one in wanted:
        if one not in there:
            known = f"there are {', '.join(there)}" if there else "its folders are no splits"
            raise UserError(f"{root}: no split '{one}'; {known}; correct split")
    return list(dict.fromkeys(wanted))


def class_folders(
    place: pathlib.Path, level: int | None, passed: PassedOver, sure: bool = False
) -> dict[str, list[pathlib.Path]]:
    """{class: its folders}: those that lie `level` levels deep in `place`, by their names in NFC, sorted.

    Folders of one name are one class. Without `level` they are the folders of `place`. If one of these then has
    pictures in folders of its own alone, it is not clear what the classes are: UserError, unless the caller is `sure`.
    """
    if level is not None and (isinstance(level, bool) or not isinstance(level, int) or level < 1):
        raise UserError(
            f"{place}: level: {level!r}; give 1 for folders of classes, 2 for folders in folders"
        )
    outer = [place]
    for _ in range(level or 1):
        outer = [inner for one in outer for inner in _folders(one, passed)]
    if level is None and not sure:
        _check_depth(place, outer)
    classes: dict[str, list[pathlib.Path]] = {}
    for folder in outer:
        classes.setdefault(canonical(folder.name), []).append(folder)
    if not (sure or in_worker()):
        _tell_spellings(place, classes)
    return dict(sorted(classes.items()))


def check_pictures(pictures: Found, given: tuple[str, ...] | None, passed: PassedOver) -> None:
    """UserError for a folder without pictures, for classes that are none of those `given`, and else for empty ones."""
    seen = f" (passed over: {passed})" if passed.counts else ""
    for place, found in pictures.items():
        if not any(found.values()):
            flat = " into a folder for each class" if has_pictures(place) else ""
            raise UserError(
                f"{place}: no class folder has pictures ({', '.join(NAMES)}){seen}; put them{flat}"
            )
        if given is not None:
            unknown = [one for one in found if one not in given]
            if unknown:
                raise UserError(
                    f"{place / unknown[0]}: folder is none of the {len(given)} classes;"
                    " rename it or add it to `classes`"
                )
            continue
        empty = [one for one, paths in found.items() if not paths]
        if empty:
            raise UserError(
                f"{place / empty[0]}: class without pictures{seen}; add some or remove the folder"
            )
        if len(found) == 1:
            raise UserError(
                f"{place}: only the class '{next(iter(found))}'; add a second class folder"
            )


def rows_of(
    root: pathlib.Path, pictures: Found, classes: Sequence[str]
) -> list[tuple[str, pathlib.Path, int]]:
    """(key, file, number of its class), in the order of the keys: the file system's differs between machines."""
    number = {one: i for i, one in enumerate(classes)}
    rows = sorted(
        (canonical(path.relative_to(root).as_posix()), path, number[one])
        for found in pictures.values()
        for one, paths in found.items()
        for path in paths
    )
    for (key, path, _), (after, other, _) in itertools.pairwise(rows):
        if key == after:
            raise UserError(
                f"{path}: called like {str(other)!a} but for how accents are written; rename one"
            )
    return rows


def _tell_spellings(place: pathlib.Path, folders: Mapping[str, Sequence[pathlib.Path]]) -> None:
    """Log classes that several folders make, and those whose names differ in capitals alone."""
    alike: dict[str, list[str]] = {}
    for one, at in folders.items():
        alike.setdefault(one.casefold(), []).append(one)
        if len(at) > 1:
            names = ", ".join(ascii(path.relative_to(place).as_posix()) for path in at[:SHOWN])
            more = ", ..." if len(at) > SHOWN else ""
            log.warning("%s: class '%s' is joined from %s%s", place, one, names, more)
    for several in alike.values():
        if len(several) > 1:
            log.warning("%s: %s stay apart, though only capitals differ", place, ", ".join(several))


def pass_over_beside(
    root: pathlib.Path, there: Mapping[str, pathlib.Path], passed: PassedOver
) -> None:
    """Count what lies beside the folders of splits."""
    for folder in _folders(root, passed):
        if folder not in there.values():
            passed.add("folder beside the splits, of another name or without classes", folder)


def _folders(place: pathlib.Path, passed: PassedOver) -> list[pathlib.Path]:
    """The folders in a folder of folders; files beside them are passed over."""
    files, folders = listed(place, passed)
    for path in files:
        if is_picture(path):
            passed.add("picture outside of the class folders", path)
        else:
            passed.add_file(path)
    return folders


def _check_depth(place: pathlib.Path, folders: Sequence[pathlib.Path]) -> None:
    deeper = [one for one in folders if not has_pictures(one) and has_pictures_inside(one)]
    if not deeper:
        return
    inner = [one for folder in deeper for one in listed(folder, PassedOver())[1]]
    if len(folders) == 1:
        raise UserError(
            f"{place}: has only the folder {folders[0].name}, with folders {_names(inner)}; give {folders[0]}"
        )
    raise UserError(
        f"{place}: {_names(deeper)} hold pictures in folders of their own alone ({_names(inner)}); say level=1 if the"
        f" classes are {_names(folders)}, or level=2 if they are {_names(inner)}"
    )


def canonical(name: str) -> str:
    """A name in Unicode's composed form (NFC): file systems differ in how they write accents.

    Bytes of another encoding than UTF-8, which Linux allows in a name, become escapes: no file could hold the key.
    """
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return unicodedata.normalize("NFC", text)


def _names(folders: Sequence[pathlib.Path]) -> str:
    names = list(dict.fromkeys(one.name for one in folders))
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
