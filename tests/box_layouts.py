"""Small sets of pictures with boxes, in the layouts in which such sets are published, for tests.

A set has four pictures of 40 x 30 pixels (width x height). Picture i has the boxes of `corners(i)`.
"""

import json
import pathlib

import numpy as np
from PIL import Image

WIDTH, HEIGHT, COUNT = 40, 30, 4
JPEG = {"quality": 95, "subsampling": 0}


def corners(i: int) -> np.ndarray:
    """Two boxes float32 [2,4]; both have whole pixels."""
    return np.asarray([[2 + i, 3, 12 + i, 13 + i], [20, 10 + i, 36, 28]], np.float32)


def picture(i: int) -> np.ndarray:
    """Grey, with the first box red and the second one green."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for box, colour in zip(corners(i).astype(int), ((255, 0, 0), (0, 255, 0)), strict=True):
        image[box[1] : box[3], box[0] : box[2]] = colour
    return image


def save(path: pathlib.Path, image: np.ndarray, orientation: int = 1) -> None:
    """Write stored pixels, with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    im = Image.fromarray(image)
    exif = im.getexif()
    exif[0x0112] = orientation
    im.save(path, exif=exif, **(JPEG if path.suffix == ".jpg" else {}))


def coco(folder: pathlib.Path, inner: str = "images", prefix: str = "", **others) -> dict:
    """instances.json beside `inner`/NAME.jpg; the file calls it `prefix`NAME.jpg. Returns what it holds."""
    content: dict = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 1, "name": "cup"}, {"id": 9, "name": "dog"}]
    for i in range(COUNT):
        save(folder / inner / f"{i}.jpg", picture(i))
        content["images"].append(
            {"id": i, "file_name": f"{prefix}{i}.jpg", "width": WIDTH, "height": HEIGHT}
        )
        for n, (x1, y1, x2, y2) in enumerate(corners(i).tolist()):
            content["annotations"].append(
                {
                    "id": 2 * i + n,
                    "image_id": i,
                    "category_id": (1, 9)[n],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": 50.5,
                    "iscrowd": int(n == 1 and i == 2),
                }
            )
    (folder / "instances.json").write_text(json.dumps(content | others))
    return content


def voc_object(box, name="cup", difficult=0) -> str:
    """An object's XML; the devkit counts pixels from 1, and names the last one inside."""
    x1, y1, x2, y2 = box
    sides = f"<xmin>{x1 + 1:g}</xmin><ymin>{y1 + 1:g}</ymin><xmax>{x2:g}</xmax><ymax>{y2:g}</ymax>"
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{sides}</bndbox></object>"
    )


def voc_file(*objects: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    """A picture's XML."""
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def voc(folder: pathlib.Path) -> None:
    """JPEGImages, Annotations, ImageSets/Main/train.txt (the first two); picture 2's second box is difficult."""
    for inner in ("Annotations", "ImageSets/Main"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    for i in range(COUNT):
        save(folder / "JPEGImages" / f"{i}.jpg", picture(i))
        one, two = corners(i).tolist()
        text = voc_file(voc_object(one), voc_object(two, "dog", int(i == 2)))
        (folder / "Annotations" / f"{i}.xml").write_text(text)
    (folder / "ImageSets/Main/train.txt").write_text("0  1\n1 -1\n")


def yolo_lines(boxes: np.ndarray) -> str:
    """The lines of boxes, classes 0, 1, ..."""
    lines = []
    for label, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        values = (x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT
        values += (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT
        lines.append(f"{label} " + " ".join(f"{v:.8f}" for v in values))
    return "\n".join(lines) + "\n"


def yolo(folder: pathlib.Path, split: str = "train") -> None:
    """images/SPLIT, labels/SPLIT and data.yaml."""
    for i in range(COUNT):
        save(folder / "images" / split / f"{i}.jpg", picture(i))
        path = folder / "labels" / split / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yolo_lines(corners(i)))
    text = f"path: ../datasets/elsewhere  # of another machine\n{split}: images/{split}\nval:\n"
    (folder / "data.yaml").write_text(text + "names:\n  0: cup\n  1: dog\n")


def openimages(folder: pathlib.Path, split: str = "validation") -> None:
    """The CSV files of a split; picture 2's second box is of a group."""
    rows = [
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    ]
    for i in range(COUNT):
        save(folder / split / f"{i:016x}.jpg", picture(i))
        for n, (x1, y1, x2, y2) in enumerate(corners(i).tolist()):
            sides = f"{x1 / WIDTH},{x2 / WIDTH},{y1 / HEIGHT},{y2 / HEIGHT}"
            label = ("/m/0cup", "/m/0dog")[n]
            rows.append(f"{i:016x},xclick,{label},1,{sides},0,0,{int(n == 1 and i == 2)}")
    rows.append("00000000000000ff,xclick,/m/0cup,1,0,1,0,1,0,0,0")  # a picture that is not there
    (folder / f"{split}-annotations-bbox.csv").write_text("\n".join(rows) + "\n")
    (folder / "class-descriptions-boxable.csv").write_text('/m/0cup,cup\n/m/0dog,"dog, large"\n')


def wider(folder: pathlib.Path, part: str = "train") -> None:
    """wider_face_split and WIDER_PART; picture 2's second face is invalid."""
    lines = []
    for i in range(COUNT):
        save(folder / f"WIDER_{part}/images/0--Parade/{i}.jpg", picture(i))
        lines += [f"0--Parade/{i}.jpg", "2"]
        for n, (x1, y1, x2, y2) in enumerate(corners(i).astype(int).tolist()):
            invalid = int(n == 1 and i == 2)
            lines.append(f"{x1} {y1} {x2 - x1} {y2 - y1} 0 0 0 {invalid} 0 0")
    (folder / "wider_face_split").mkdir()
    text = "\n".join(lines) + "\n"
    (folder / f"wider_face_split/wider_face_{part}_bbx_gt.txt").write_text(text)


def citypersons(folder: pathlib.Path, part: str = "train") -> None:
    """leftImg8bit and gtBboxCityPersons; picture 2's second box is a group."""
    for i in range(COUNT):
        save(folder / f"leftImg8bit/{part}/ulm/{i}_leftImg8bit.png", picture(i))
        objects = []
        for n, (x1, y1, x2, y2) in enumerate(corners(i).astype(int).tolist()):
            label = "person group" if n == 1 and i == 2 else "pedestrian"
            box = [x1, y1, x2 - x1, y2 - y1]
            objects.append({"label": label, "bbox": box, "bboxVis": box})
        path = folder / f"gtBboxCityPersons/{part}/ulm/{i}_gtBboxCityPersons.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"objects": objects}))


WRITERS = {
    "coco": coco,
    "voc": voc,
    "yolo": yolo,
    "openimages": openimages,
    "wider_face": wider,
    "citypersons": citypersons,
}
