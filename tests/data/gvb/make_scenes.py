"""Tiny detection, segmentation and depth sets of GV-B in their true on-disk formats, with known answers.

Each maker writes 6 or more training and 4 or more test pictures below a root: coloured shapes on
grey. A shape's colour tells its class (and in the depth sets its distance), so a few pictures can be
learnt from. `shapes(seed)` gives a picture's answers again.
"""

import io
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 72, 96
GROUND = (110, 110, 110)
# Number in VOC's classes (from 0), name, colour, distance in metres.
KINDS = (
    (6, "car", (220, 40, 40), 4.0),
    (11, "dog", (40, 200, 60), 2.0),
    (14, "person", (50, 80, 230), 6.0),
)
FAR = 8.0
PALETTE = [v for i in range(256) for v in (i * 37 % 256, i * 91 % 256, i * 151 % 256)]


class Shape(NamedTuple):
    """A filled box of pixels, columns x1..x2 - 1 and rows y1..y2 - 1."""

    kind: int
    x1: int
    y1: int
    x2: int
    y2: int


def shapes(seed: int) -> list[Shape]:
    """The two shapes of picture `seed`, one in each half, at least 20 pixels high and wide."""
    rng = np.random.default_rng(seed)
    found = []
    for half in (0, 1):
        w, h = rng.integers(20, 36), rng.integers(24, 56)
        x = half * WIDTH // 2 + rng.integers(2, WIDTH // 2 - w - 2)
        y = rng.integers(4, HEIGHT - h - 3)
        kind = (seed + half) % len(KINDS)
        found.append(Shape(kind, *(int(v) for v in (x, y, x + w, y + h))))
    return found


def picture(seed: int) -> np.ndarray:
    """uint8 [H,W,3]: the shapes in their colours on grey, with a little noise."""
    image = np.empty((HEIGHT, WIDTH, 3), np.int16)
    image[:] = GROUND
    for kind, x1, y1, x2, y2 in shapes(seed):
        image[y1:y2, x1:x2] = KINDS[kind][2]
    noise = np.random.default_rng([seed, 1]).integers(-6, 7, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def mask(seed: int, border: bool) -> np.ndarray:
    """uint8 [H,W]: VOC's classes from 1, 0 the ground, and 255 on the shapes' edges if `border`."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    for kind, x1, y1, x2, y2 in shapes(seed):
        found[y1:y2, x1:x2] = 255 if border else KINDS[kind][0] + 1
        found[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = KINDS[kind][0] + 1
    return found


def depth(seed: int) -> np.ndarray:
    """float64 [H,W] metres, whole multiples of 1/256 and 1/1000; 0 (not measured) in every 5th row."""
    found = np.full((HEIGHT, WIDTH), FAR)
    for kind, x1, y1, x2, y2 in shapes(seed):
        found[y1:y2, x1:x2] = KINDS[kind][3]
    found[::5] = 0
    return found


def save(array: np.ndarray, path: pathlib.Path) -> None:
    """Write a picture by its file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def save_lines(lines: Iterable[str], path: pathlib.Path) -> None:
    """Write a list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def save_palette(array: np.ndarray, path: pathlib.Path, bits: int = 8) -> None:
    """Write class numbers as a PNG whose colours say nothing, as VOC's masks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.frombytes("P", array.shape[::-1], array.tobytes())
    image.putpalette(PALETTE)
    image.save(path, bits=bits)


# --- VOC ---------------------------------------------------------------------------------------

VOC_SETS = {  # (year, list): {name: seed}
    ("2007", "trainval"): {f"{i:06d}": i for i in (5, 7, 9, 12)},
    ("2007", "test"): {f"{i:06d}": i for i in (1, 2, 3, 4)},
    ("2012", "trainval"): {f"2008_{i:06d}": i for i in (20, 21, 22, 23)},
}
DIFFICULT = {5, 2, 21}  # seeds of which the second shape is difficult


def voc_xml(folder: str, name: str, seed: int) -> str:
    """The annotation of one picture; a person also has a part with a box of its own."""
    objects = ""
    for i, (kind, x1, y1, x2, y2) in enumerate(shapes(seed)):
        # From 1, and the last pixel inside; some years have fractions.
        box = (x1 + 1, y1 + 1, x2, f"{y2}.0" if folder == "VOC2012" else y2)
        sides = "".join(
            f"<{side}>{v}</{side}>"
            for side, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        part = (
            f"<part><name>head</name><bndbox>{sides}</bndbox></part>"
            if KINDS[kind][1] == "person"
            else ""
        )
        objects += (
            f"<object><name>{KINDS[kind][1]}</name><pose>Left</pose><truncated>0</truncated>"
            f"<difficult>{int(seed in DIFFICULT and i == 1)}</difficult><bndbox>{sides}</bndbox>{part}</object>\n"
        )
    return (
        f"<annotation><folder>{folder}</folder><filename>{name}.jpg</filename><size><width>{WIDTH}</width>"
        f"<height>{HEIGHT}</height><depth>3</depth></size><segmented>0</segmented>\n{objects}</annotation>\n"
    )


def voc07_12(root: pathlib.Path) -> None:
    """VOCdevkit/VOC2007 and VOC2012 with ImageSets/Main, JPEGImages and Annotations."""
    for (year, set_name), pictures in VOC_SETS.items():
        folder = root / "voc07_12" / "VOCdevkit" / f"VOC{year}"
        save_lines(pictures, folder / "ImageSets" / "Main" / f"{set_name}.txt")
        (folder / "Annotations").mkdir(exist_ok=True)
        for name, seed in pictures.items():
            save(picture(seed), folder / "JPEGImages" / f"{name}.jpg")
            (folder / "Annotations" / f"{name}.xml").write_text(voc_xml(folder.name, name, seed))


def voc07_12_tfds(root: pathlib.Path) -> None:
    """The pictures of `voc07_12` (made before) as TFDS prepares them in root/tfds."""
    import tensorflow_datasets as tfds

    devkit = root / "voc07_12" / "VOCdevkit"

    def example(year: str, name: str, seed: int) -> dict[str, Any]:
        found = [
            {
                "label": KINDS[kind][1],
                "pose": "left",
                # TFDS divides the coordinates as they are, from 1.
                "bbox": tfds.features.BBox(
                    (y1 + 1) / HEIGHT, (x1 + 1) / WIDTH, y2 / HEIGHT, x2 / WIDTH
                ),
                "is_truncated": False,
                "is_difficult": seed in DIFFICULT and i == 1,
            }
            for i, (kind, x1, y1, x2, y2) in enumerate(shapes(seed))
        ]
        return {
            "image": io.BytesIO(
                (devkit / f"VOC{year}" / "JPEGImages" / f"{name}.jpg").read_bytes()
            ),
            "image/filename": f"{name}.jpg",
            "objects": found,
            "labels": sorted({one["label"] for one in found}),
            "labels_no_difficult": sorted(
                {one["label"] for one in found if not one["is_difficult"]}
            ),
        }

    for year in ("2007", "2012"):
        trainval = list(VOC_SETS[year, "trainval"].items())
        parts = {"train": trainval[::2], "validation": trainval[1::2]}
        if (year, "test") in VOC_SETS:
            parts["test"] = list(VOC_SETS[year, "test"].items())
        _prepare(
            root,
            f"voc/{year}",
            {
                part: [(name, example(year, name, seed)) for name, seed in pictures]
                for part, pictures in parts.items()
            },
        )


def _prepare(root: pathlib.Path, name: str, splits: dict[str, list[tuple[str, Any]]]) -> None:
    """Write examples with the installed builder of TFDS, so with its features, without TensorFlow."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=str(root / "tfds"), file_format="array_record")
    builder._split_generators = lambda _dl_manager: {k: iter(v) for k, v in splits.items()}
    builder.download_and_prepare()


# --- VOC 2012 segmentation + SBD ---------------------------------------------------------------

SEG_TRAIN = {f"2007_{i:06d}": i for i in (30, 31, 32)}
SEG_VAL = {f"2007_{i:06d}": i for i in (40, 41, 42, 43)}
# SBD's own lists, which overlap VOC's: one picture of VOC's train and one of its val are in them.
SBD_TRAIN = {f"2008_{i:06d}": i for i in (50, 51, 52)} | {"2007_000030": 30}
SBD_VAL = {"2008_000053": 53, "2007_000041": 41}


def voc2012_seg(root: pathlib.Path) -> None:
    """VOCdevkit/VOC2012 with SegmentationClass, and SBD's benchmark_RELEASE/dataset."""
    folder = root / "voc2012_seg" / "VOCdevkit" / "VOC2012"
    for set_name, pictures in (("train", SEG_TRAIN), ("val", SEG_VAL)):
        save_lines(pictures, folder / "ImageSets" / "Segmentation" / f"{set_name}.txt")
        for name, seed in pictures.items():
            save_palette(mask(seed, border=True), folder / "SegmentationClass" / f"{name}.png")
    for name, seed in (SEG_TRAIN | SEG_VAL | SBD_TRAIN | SBD_VAL).items():
        save(picture(seed), folder / "JPEGImages" / f"{name}.jpg")
    sbd = root / "voc2012_seg" / "benchmark_RELEASE" / "dataset"
    for set_name, pictures in (("train", SBD_TRAIN), ("val", SBD_VAL)):
        save_lines(pictures, sbd / f"{set_name}.txt")
        for name, seed in pictures.items():
            save_sbd(mask(seed, border=False), sbd / "cls" / f"{name}.mat")


def save_sbd(array: np.ndarray, path: pathlib.Path) -> None:
    """Write a mask as SBD's GTcls: a struct with the mask, sparse boundaries and the classes there."""
    import scipy.io
    import scipy.sparse

    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), object)
    for i in range(20):
        boundaries[i, 0] = scipy.sparse.csc_matrix(array == i + 1, dtype=np.float64)
    present = np.setdiff1d(np.unique(array), [0])[:, None]
    content = {"Boundaries": boundaries, "Segmentation": array, "CategoriesPresent": present}
    scipy.io.savemat(path, {"GTcls": content}, do_compression=True)


# --- WIDER FACE --------------------------------------------------------------------------------

WIDER = {
    "train": {
        "0--Parade": [101, 102, 103, 104],
        "12--Group": [105, 106, 107],
    },
    "val": {"0--Parade": [111, 112, 113], "9--Press_Conference": [114, 115]},
}
NO_FACES = 103
INVALID_FACE, FLAT_FACE = 102, 112  # the second face has the flag, the first has no width


def wider_name(event: str, seed: int) -> str:
    """As "0_Parade_Parade_0_103"."""
    number, _, word = event.partition("--")
    return f"{number}_{word}_{word}_0_{seed}"


def wider_faces(seed: int) -> list[list[int]]:
    """x, y, width, height, blur, expression, illumination, invalid, occlusion, pose of each face."""
    if seed == NO_FACES:
        return []
    faces = [[s.x1, s.y1, s.x2 - s.x1, s.y2 - s.y1, 0, 0, 0, 0, 1, 0] for s in shapes(seed)]
    if seed == INVALID_FACE:
        faces[1][7] = 1
    if seed == FLAT_FACE:
        faces[0][2] = 0
    return faces


def wider_counts(seed: int, level: str) -> list[int]:
    """Numbers, from 1, of the faces that count in a level: all are hard, the first is easy."""
    faces = [i + 1 for i, face in enumerate(wider_faces(seed)) if face[2] > 0]
    return {"easy": faces[:1] if seed % 2 else [], "medium": faces[-1:], "hard": faces}[level]


def wider_face(root: pathlib.Path) -> None:
    """WIDER_{train,val}/images, wider_face_split/*.txt and eval_tools/ground_truth/*.mat."""
    folder = root / "wider_face"
    for part, events in WIDER.items():
        lines = []
        for event, seeds in events.items():
            for seed in seeds:
                name = f"{event}/{wider_name(event, seed)}.jpg"
                save(picture(seed), folder / f"WIDER_{part}" / "images" / name)
                faces = wider_faces(seed)
                rows = [" ".join(map(str, face)) + " " for face in faces or [[0] * 10]]
                lines += [name, str(len(faces)), *rows]
        save_lines(lines, folder / "wider_face_split" / f"wider_face_{part}_bbx_gt.txt")
    # The tools list the events in another order than the text file.
    save_wider_levels(dict(reversed(WIDER["val"].items())), folder / "eval_tools" / "ground_truth")


def save_wider_levels(events: dict[str, list[int]], folder: pathlib.Path) -> None:
    """Write the tools' cells of cells: events, their files, their faces, and those that count."""
    import scipy.io

    folder.mkdir(parents=True)
    boxes = [[np.float64(wider_faces(seed))[:, :4] for seed in seeds] for seeds in events.values()]
    names = [[wider_name(event, seed) for seed in seeds] for event, seeds in events.items()]
    content = {
        "event_list": _cell(list(events)),
        "file_list": _cells(names),
        "face_bbx_list": _cells(boxes),
    }
    scipy.io.savemat(folder / "wider_face_val.mat", content)
    for level in ("easy", "medium", "hard"):
        counts = [
            [np.float64(wider_counts(seed, level)).reshape(-1, 1) for seed in seeds]
            for seeds in events.values()
        ]
        lists = {"gt_list": _cells(counts), "file_list": content["file_list"]}
        scipy.io.savemat(
            folder / f"wider_{level}_val.mat", lists | {"event_list": content["event_list"]}
        )


def _cell(values: Sequence[Any]) -> np.ndarray:
    cell = np.empty((len(values), 1), object)
    for i, value in enumerate(values):
        cell[i, 0] = value
    return cell


def _cells(values: Sequence[Sequence[Any]]) -> np.ndarray:
    return _cell([_cell(inner) for inner in values])


# --- CityPersons -------------------------------------------------------------------------------

CITIES = {
    "train": {"aachen": (201, 202, 203), "bochum": (204, 205, 206)},
    "val": {"frankfurt": (211, 212), "munster": (213, 214, 215)},
}
RIDER, IGNORED, EMPTY_STREET = (
    202,
    212,
    205,
)  # the second person rides, is a poster; nobody is there
OUTSIDE = 213  # the first person's feet are below the picture


def street_objects(seed: int) -> list[dict[str, Any]]:
    """The objects of a picture's JSON; of each person the upper half is visible."""
    if seed == EMPTY_STREET:
        return []
    found = []
    for i, (_, x1, y1, x2, y2) in enumerate(shapes(seed)):
        label = {(RIDER, 1): "rider", (IGNORED, 1): "ignore"}.get((seed, i), "pedestrian")
        height = HEIGHT + 16 - y1 if seed == OUTSIDE and i == 0 else y2 - y1
        box = [x1, y1, x2 - x1, height]
        seen = box if label == "ignore" else [x1, y1, x2 - x1, height // 2]
        found.append({"instanceId": 24000 + i, "bbox": box, "bboxVis": seen, "label": label})
    return found


def citypersons(root: pathlib.Path) -> None:
    """leftImg8bit/{train,val}/CITY/*.png and gtBboxCityPersons/{train,val}/CITY/*.json."""
    folder = root / "citypersons"
    for part, cities in CITIES.items():
        for city, seeds in cities.items():
            for seed in seeds:
                name = f"{part}/{city}/{city}_000000_{seed:06d}"
                save(picture(seed), folder / "leftImg8bit" / f"{name}_leftImg8bit.png")
                content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": street_objects(seed)}
                path = folder / "gtBboxCityPersons" / f"{name}_gtBboxCityPersons.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(content))


# --- KITTI and NYUv2 ---------------------------------------------------------------------------

DRIVES = {  # (date, drive, the archive's part with its depth): seeds; 0 has no depth
    "train": {
        ("2011_09_26", "2011_09_26_drive_0002_sync", "val"): (301, 302, 303),
        ("2011_09_28", "2011_09_28_drive_0021_sync", "train"): (304, 305, 306),
    },
    "test": {("2011_09_26", "2011_09_26_drive_0013_sync", "train"): (311, 312, 0, 313, 314)},
}


def kitti(root: pathlib.Path) -> None:
    """Raw drives, data_depth_annotated/{train,val} and the lists of Eigen's split."""
    folder = root / "kitti"
    for split, drives in DRIVES.items():
        lines = []
        for (date, drive, part), seeds in drives.items():
            for seed in seeds:
                image = f"{date}/{drive}/image_02/data/{seed:010d}.png"
                truth = f"{drive}/proj_depth/groundtruth/image_02/{seed:010d}.png"
                save(picture(seed), folder / image)
                if seed:
                    steps = (depth(seed) * 256).astype(np.uint16)
                    save(steps, folder / "data_depth_annotated" / part / truth)
                lines.append(f"{image} {truth if seed else 'None'} 721.5377")
        save_lines(lines, folder / f"eigen_{split}_files_with_gt.txt")


ROOMS = {
    "train": {"kitchen_0028b": (401, 402, 403), "study_0004": (404, 405, 406)},
    "test": {"bathroom": (411, 412), "office": (413, 414)},
}


def nyuv2(root: pathlib.Path) -> None:
    """sync/, official_splits/test/ and their lists; depth in millimetres."""
    folder = root / "nyuv2"
    for split, scenes in ROOMS.items():
        place = folder / ("sync" if split == "train" else "official_splits/test")
        lines = []
        for scene, seeds in scenes.items():
            for seed in seeds:
                image, truth = f"{scene}/rgb_{seed:05d}.jpg", f"{scene}/sync_depth_{seed:05d}.png"
                save(picture(seed), place / image)
                save((depth(seed) * 1000).astype(np.uint16), place / truth)
                # As in BTS' lists, only the training frames begin with a slash.
                slash = "/" if split == "train" else ""
                lines.append(f"{slash}{image} {slash}{truth} 518.8579")
        save_lines(lines, folder / f"nyudepthv2_{split}_files_with_gt.txt")


def nyuv2_tfds(root: pathlib.Path) -> None:
    """Two frames and one test picture of 480 x 640 as TFDS prepares nyu_depth_v2 in root/tfds."""
    far = np.full((480, 640), FAR, np.float16)
    far[:, :320] = 1.5
    far[0] = 0

    def example(seed: int) -> dict[str, Any]:
        out = io.BytesIO()
        Image.fromarray(np.full((480, 640, 3), seed, np.uint8)).save(out, "PNG")
        out.seek(0)
        return {"image": out, "depth": far}

    splits = {"train": [("a", example(1)), ("b", example(2))], "validation": [("c", example(3))]}
    _prepare(root, "nyu_depth_v2", splits)


MAKERS: dict[str, Callable[[pathlib.Path], None]] = {
    "voc07_12": voc07_12,
    "wider_face": wider_face,
    "citypersons": citypersons,
    "voc2012_seg": voc2012_seg,
    "kitti": kitti,
    "nyuv2": nyuv2,
}
