"""`open_data`: a random-access source from a path in any of the formats that are read.

| kind | the data |
|---|---|
| folders | a folder with one folder of pictures per class, or the splits train, val and test with such folders |
| captions | pictures with .txt files beside them, or listed by a table (.csv, .tsv, .jsonl) |
| webdataset | .tar files whose members of one stem make a sample |
| parquet | Parquet files with a column of pictures |
| coco | a COCO JSON of instances or captions, and its pictures; Objects365 too |
| voc | pictures with boxes: folders JPEGImages and Annotations (XML) |
| yolo | pictures with boxes: folders images and labels, with data.yaml or classes.txt |
| openimages | Open Images: SPLIT-annotations-bbox.csv, class-descriptions-boxable.csv, folders of pictures |
| wider_face | WIDER FACE: wider_face_split, WIDER_train, WIDER_val |
| citypersons | CityPersons: leftImg8bit and gtBboxCityPersons |
| tfds | "tfds:NAME/CONFIG:VERSION", or the folder of a prepared version |
| array_record | ArrayRecord files with `decode`; a pool, an index of one, or the workdir of `data run` |
"""

import inspect
import itertools
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from intern_jax.core.config import UserError, did_you_mean, resolve
from intern_jax.data.detection import citypersons, voc, wider, yolo
from intern_jax.data.detection.openimages import BOXES, OpenImages
from intern_jax.data.open.captions import PREFERRED, TABLES, find_tables, open_captions
from intern_jax.data.open.coco import Coco
from intern_jax.data.open.parquet import Parquet, has_pictures
from intern_jax.data.open.tars import SIGNS
from intern_jax.data.open.webdataset import Tars
from intern_jax.data.read.classes import find_splits
from intern_jax.data.read.copies import tell_copies
from intern_jax.data.read.opened import Path, expand, is_pattern
from intern_jax.data.read.walking import JUNK, is_picture
from intern_jax.data.schema.source import Source
from intern_jax.data.sources.array_record import ArrayRecordSource
from intern_jax.data.sources.folder import ImageFolder

POOL = "intern_jax.data.sources.pool:open_pool"
INFO = "dataset_info.json"  # what a prepared TFDS version has
POOL_FILES = (
    "pool.json",
    "index.json",
    "pipeline.json",
)  # a pool, an index of one, a workdir of both
TFDS = "tfds:"
# Directory entries that are looked at: in the folder itself, and in each of a few folders in it.
ENTRIES, INNER_FOLDERS, INNER_ENTRIES = 400, 8, 50
DEPTH = 2  # levels below a folder in which pictures are looked for: split, class, and one more
HEAD = 1 << 16  # bytes of a JSON file that are looked at


def open_data(data: Path, kind: str | None = None, **settings: Any) -> Source:
    """Open pictures with labels, captions or boxes from a path, whatever their format.

    `data` is a folder, a file, a pattern ("shards/{000..010}.tar"), or "tfds:NAME". `kind` is one of KINDS; without it
    the content decides. `settings` are those of the kind: `name` of all; `classes` (their order) of folders, captions,
    webdataset, parquet, voc and yolo; `root` (where the pictures lie) of captions, parquet and yolo; `images` of coco
    and openimages; `masks` of coco; `upright` of coco and voc; `split` of folders, voc, yolo, openimages, wider_face
    and citypersons; `level` (of the class folders) of folders; `split`, `data_dir`, `fields` and `family` of tfds;
    `decode`, `family`, `classes` and `index` of array_record, and `index` and `split` of a pool.

    The source has `labels` if every sample has one. It may have `origin(index)`, with those of source, licence, author
    and name that are known. UserError, in one line, for data that is not recognised, is of two kinds, or is broken.
    """
    found = kind or recognise(data)
    if found not in KINDS:
        raise UserError(f"kind: no '{found}'; {did_you_mean(found, list(KINDS))}")
    _check_settings(KINDS[found], settings, f"{data}: {found}")
    return KINDS[found](data, **settings)


def _check_settings(opener: Callable[..., Any], settings: Iterable[str], where: str) -> None:
    """UserError for a setting that an opener does not know."""
    _, *parameters = inspect.signature(opener).parameters.values()
    known = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    free = len(known) < len(parameters)
    for name in settings:
        if name not in known and not free:
            raise UserError(f"{where} has no setting '{name}'; there are {', '.join(known)}")


def open_split(
    split: str, train: Path, test: Path, kind: str | None = None, **settings: Any
) -> Source:
    """The split "train" or "test" of a data set of one's own, as a benchmark's row opens it.

    `train` and `test` are paths for `open_data`; classes are numbered as in `train`, though `test` may lack some.
    """
    if split not in ("train", "test"):
        raise UserError(f"split: '{split}'; known: train, test")
    source = open_data(train, kind, **_of_splits(train, kind, ("train",), settings))
    if split == "train":
        return source
    if "classes" in inspect.signature(KINDS[kind or recognise(test)]).parameters:
        settings = {"classes": source.classes or None, **settings}
    found = open_data(test, kind, **_of_splits(test, kind, ("test", "val"), settings))
    if found.classes != source.classes:
        raise UserError(f"{test}: other classes than {train}; give both the same")
    if isinstance(source, ImageFolder) and isinstance(found, ImageFolder) and not found.splits:
        tell_copies(test, source.paths, found.paths)
    return found


def _of_splits(
    data: Path, kind: str | None, wanted: tuple[str, ...], settings: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The settings, with the first of the wanted splits if the data is a folder of splits."""
    there = splits_of(data, kind)
    chosen = next((one for one in wanted if one in there), None)
    if there and chosen is None:
        raise UserError(f"{data}: has the splits {', '.join(there)}, and no {wanted[0]}; add it")
    return {**settings, "split": chosen} if there else settings


def splits_of(data: Path, kind: str | None = None) -> tuple[str, ...]:
    """The splits of a folder of splits with class folders, such as ("train", "test"); none of any other data."""
    return tuple(find_splits(pathlib.Path(data))) if (kind or recognise(data)) == "folders" else ()


def recognise(data: Path) -> str:
    """The kind of the data at a path, by its content. UserError if there is none, or more than one."""
    text = os.fspath(data)
    if text.startswith(TFDS):
        return "tfds"
    if is_pattern(data):
        files = expand(data)
        found = {_kind_of_file(file) for file in files[:20]} or {None}
        seen = f"{len(files)} files"
    elif os.path.isdir(data):
        found, seen = _kinds_of_folder(pathlib.Path(data))
    elif os.path.exists(data):
        found, seen = {_kind_of_file(pathlib.Path(data))}, "a file"
    else:
        raise UserError(f"{data}: no such file or folder; accepted: {ACCEPTED}")
    kinds = sorted(kind for kind in found if kind is not None)
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise UserError(f"{data}: may be {' or '.join(kinds)} ({seen}); say which with kind=")
    raise UserError(
        f"{data}: not recognised; found: {seen}; accepted: {ACCEPTED}; correct it, or say which with"
        " kind="
    )


def _kind_of_file(path: pathlib.Path) -> str | None:
    if not path.is_file():
        return None
    name = path.name.lower()
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    for sign, what in SIGNS.items():
        if head.startswith(sign) and ".array_record" not in name:
            raise UserError(f"{path}: compressed ({what}); uncompress it once, as a tar to a .tar")
    if head.startswith(b"PAR1") or name.endswith(".parquet"):
        return "parquet"
    if head[257:262] == b"ustar" or name.endswith(".tar"):
        return "webdataset"
    if ".array_record" in name:
        return "array_record"
    if name.endswith(BOXES):
        return "openimages"
    if name.endswith(TABLES):
        return "captions"
    if name.endswith((".yaml", ".yml")):
        return "yolo" if b"names:" in head else None
    return "coco" if name.endswith(".json") and _may_be_coco(head) else None


def _may_be_coco(head: bytes) -> bool:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    fields = (b'"images"', b'"annotations"', b'"categories"', b'"licenses"')
    return text.startswith(b"{") and any(field in head for field in fields)


def _scan(folder: pathlib.Path, most: int) -> tuple[list[str], list[str]]:
    """(files, folders) among the first entries of a folder, without hidden ones and marks such as _SUCCESS."""
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in itertools.islice(entries, most):
                if entry.is_dir() and entry.name[0] != "." and entry.name not in JUNK:
                    folders.append(entry.name)
                elif not entry.is_dir() and entry.name[0] not in "._":
                    files.append(entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check the folder") from None
    return sorted(files), sorted(folders)


def _kinds_of_folder(folder: pathlib.Path) -> tuple[set[str | None], str]:
    """The kinds that a folder may be of, and what was seen in it."""
    files, folders = _scan(folder, ENTRIES)
    # What may lie beyond the first entries of a large folder.
    tables = [stem + suffix for stem in PREFERRED for suffix in TABLES]
    names = {*files, *(n for n in (INFO, *POOL_FILES, *tables) if (folder / n).is_file())}
    if INFO in names:
        return {"tfds"}, ""
    if _has_pool(folder, names) or any(".array_record" in name for name in files):
        return {"array_record"}, ""
    boxed = _kind_of_boxes(folder, files, folders)
    if boxed is not None:
        return {boxed}, ""
    inner = [folder / name for name in folders[:INNER_FOLDERS]]
    shards = [folder / name for name in files]
    if "data" in folders:
        shards += [folder / "data" / name for name in _scan(folder / "data", ENTRIES)[0]]
    found: set[str | None] = set()
    for suffix, kind in ((".parquet", "parquet"), (".tar", "webdataset")):
        if any(path.name.endswith(suffix) for path in shards):
            found.add(kind)
    if len(found) == 2 and not has_pictures(next(p for p in shards if p.suffix == ".parquet")):
        found.remove("parquet")
    if not found and any(path.name.endswith((".tar.gz", ".tgz")) for path in shards):
        raise UserError(f"{folder}: has compressed tars; uncompress each once to a .tar")
    pictured = [one for one in inner if _has_pictures(one)]
    listed = find_tables(folder, names)
    if listed or _has_texts(folder, files):
        found.add("captions")
    elif not found and _coco_files(folder, files):
        found.add("coco")
    elif pictured:
        found.add("folders")
        if any(_has_texts(one, _scan(one, INNER_ENTRIES)[0]) for one in pictured):
            found.add("captions")
    suffixes = Counter(pathlib.PurePath(name).suffix.lower() for name in files)
    counts = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in suffixes.most_common(6))
    of_them = f", {len(pictured)} of the first {len(inner)} with pictures" if inner else ""
    return found, f"files: {counts or 'none'}; folders: {len(folders)}{of_them}"


def _kind_of_boxes(
    folder: pathlib.Path, files: Collection[str], folders: Collection[str]
) -> str | None:
    """The layout of a published set for detection that a folder has, by the names in it."""
    if {voc.PICTURES, voc.NOTES} <= {*folders}:
        return "voc"
    if wider.LISTS in folders:
        return "wider_face"
    if {name.split("/")[0] for name in citypersons.BOXES} & {*folders}:
        return "citypersons"
    if any(name.endswith(BOXES) for name in files):
        return "openimages"
    if {"images", "labels"} <= {*folders} and yolo.NAMES in files:
        return "yolo"
    # Some exports have a folder for each split, with images and labels in it.
    settings = [folder / name for name in (yolo.SETTINGS, *files) if name.endswith(yolo.YAML)]
    return "yolo" if any(_kind_of_file(path) == "yolo" for path in settings) else None


def _has_pool(folder: pathlib.Path, names: Collection[str]) -> bool:
    """Whether a folder is a pool, an index, or a workdir with either; other programs have files of these names too."""
    pool, index, run = (name in names for name in POOL_FILES)
    return pool or (index and (folder / "causes.npy").is_file()) or (run and _is_run(folder))


def _is_run(folder: pathlib.Path) -> bool:
    try:
        with open(folder / POOL_FILES[-1], "rb") as file:
            return b'"steps"' in file.read() and any(folder.glob("*/pool.json"))
    except OSError:
        return False


def _coco_files(folder: pathlib.Path, files: list[str]) -> bool:
    """Whether a folder, or its folder "annotations", has a COCO file."""
    notes = folder / "annotations"
    inner = _scan(notes, INNER_ENTRIES)[0] if notes.is_dir() else []
    paths = [*(folder / name for name in files), *(notes / name for name in inner)]
    some = [path for path in paths if path.suffix == ".json"][:INNER_ENTRIES]
    return any(_kind_of_file(path) == "coco" for path in some)


def _has_pictures(folder: pathlib.Path, depth: int = DEPTH) -> bool:
    """Whether pictures are among the first entries of a folder, or of the first folders in it."""
    files, folders = _scan(folder, INNER_ENTRIES)
    if any(is_picture(pathlib.PurePath(name)) for name in files):
        return True
    inner = folders[:INNER_FOLDERS] if depth else []
    return any(_has_pictures(folder / name, depth - 1) for name in inner)


def _has_texts(folder: pathlib.Path, files: list[str]) -> bool:
    """Whether one of the first pictures has a text file of its stem beside it."""
    pictures = [folder / name for name in files if is_picture(pathlib.PurePath(name))]
    return any(path.with_suffix(".txt").is_file() for path in pictures[:INNER_ENTRIES])


def _open_tfds(
    data: Path,
    split: str = "train",
    data_dir: Path | None = None,
    fields: Mapping[str, str] | None = None,
    family: str | None = None,
    name: str | None = None,
) -> Source:
    from intern_jax.data.sources.tfds import TfdsSource

    text = os.fspath(data)
    folder = None if text.startswith(TFDS) else text
    called = text.removeprefix(TFDS) if folder is None else pathlib.Path(text).resolve().parent.name
    source = TfdsSource(called, split, data_dir, fields, family or "classification", folder)
    source.name = name or source.name
    if family is None and "label" not in source.fields:
        # Its fields say which family it is of.
        named = {"boxes": "detection", "mask": "segmentation", "depth": "depth", "texts": "pairs"}
        source.family = next((named[f] for f in named if f in source.fields), source.family)
    return source


def _open_array_record(
    data: Path, decode: Callable[..., Any] | str | None = None, **settings: Any
) -> Source:
    folder = pathlib.Path(data)
    if _has_pool(folder, [name for name in POOL_FILES if (folder / name).is_file()]):
        return resolve(POOL)(folder, **settings)
    if decode is None:
        raise UserError(
            f"{data}: records have no form of their own; give decode='package.module:function', which"
            " makes a sample from the bytes of a record"
        )
    _check_settings(ArrayRecordSource, settings, f"{data}: array_record")
    paths = expand(data) if is_pattern(data) else data
    return ArrayRecordSource(paths, decode, **settings)


KINDS: dict[str, Callable[..., Source]] = {
    "folders": ImageFolder,
    "captions": open_captions,
    "webdataset": Tars,
    "parquet": Parquet,
    "coco": Coco,
    "voc": voc.Voc,
    "yolo": yolo.Yolo,
    "openimages": OpenImages,
    "wider_face": wider.open_wider,
    "citypersons": citypersons.open_citypersons,
    "tfds": _open_tfds,
    "array_record": _open_array_record,
}
LABELLED = (
    "class folders, a table's column label, .cls or a JSON label in tars, a Parquet column label,"
    " or a label of a TFDS set"
)
ACCEPTED = (
    "class folders of pictures (folders), pictures with .txt files or a table .csv .tsv .jsonl (captions), .tar files"
    " (webdataset), .parquet files (parquet), a COCO .json (coco), folders of VOC, YOLO, Open Images, WIDER FACE or"
    " CityPersons (voc, yolo, openimages, wider_face, citypersons), tfds:NAME (tfds), .array_record files or a pool"
    " (array_record)"
)
