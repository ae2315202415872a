"""Tiny data sets in the true on-disk formats of GV-B's 20 classification rows.

MAKERS writes a row's official layout below a root (pcam: TFDS' prepared form, the only one that is read), TFDS_MAKERS
what TFDS prepares, with the real builders' names, versions and features, from the same pictures. Every class has one
colour, so that any classifier learns it.
"""

import csv
import io
import json
import pathlib
import tarfile
from typing import NamedTuple

import numpy as np
from PIL import Image

COLOURS = (
    np.array([[200, 40, 40], [40, 170, 60], [50, 70, 210], [220, 200, 50], [180, 60, 190]]),
    np.array([[70, 190, 200], [235, 140, 40], [120, 120, 120], [245, 245, 245], [20, 20, 20]]),
)
TRAIN, TEST = 8, 6


class Example(NamedTuple):
    """One picture of a tiny data set: split, class number, number in its class and split."""

    split: str
    label: int
    number: int

    def picture(self, size=48):
        return picture(self.label, self.number + (1000 if self.split == "test" else 0), size)


def picture(label, seed, size=48):
    """uint8 [size,size,3]: the colour of a class and noise."""
    colour = np.concatenate(COLOURS)[label % 10]
    noise = np.random.default_rng(100 * seed + label).integers(-12, 13, (size, size, 3))
    return (colour + noise).clip(0, 255).astype(np.uint8)


def encode(array, kind="JPEG", **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **({"quality": 90} if kind == "JPEG" else {}) | options)
    return out.getvalue()


def examples(classes, train=TRAIN, test=TEST):
    """All examples of a set; a split's classes take turns, as in most official lists."""
    return [
        Example(split, label, i)
        for split, count in (("train", train), ("test", test))
        for i in range(count)
        for label in range(classes)
    ]


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def write_csv(path, header, rows, delimiter=","):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    write(path, out.getvalue())


def write_mat(path, content):
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content)


def records(names, rows):
    """A MATLAB struct array [1,N]."""
    out = np.zeros((1, len(rows)), [(name, object) for name in names])
    for i, row in enumerate(rows):
        out[0, i] = tuple(row)
    return out


# CIFAR

CIFAR10 = ("airplane", "automobile", "bird", "cat")
CIFAR100 = ("apple", "aquarium_fish", "baby", "bear")


def planes(array):
    return array.transpose(2, 0, 1).tobytes()


def make_cifar10(root):
    folder = root / "cifar10" / "cifar-10-batches-bin"
    write(folder / "batches.meta.txt", "\n".join(CIFAR10) + "\n\n")
    data = dict.fromkeys(("train", "test"), b"")
    for e in examples(4, train=10):
        data[e.split] += bytes([e.label]) + planes(e.picture(32))
    batch = len(data["train"]) // 5
    for i in range(5):
        write(folder / f"data_batch_{i + 1}.bin", data["train"][i * batch : (i + 1) * batch])
    write(folder / "test_batch.bin", data["test"])


def make_cifar100(root):
    folder = root / "cifar100" / "cifar-100-binary"
    write(folder / "fine_label_names.txt", "\n".join(CIFAR100) + "\n")
    write(folder / "coarse_label_names.txt", "fruit\nanimals\n")
    data = dict.fromkeys(("train", "test"), b"")
    for e in examples(4):
        data[e.split] += bytes([e.label % 2, e.label]) + planes(e.picture(32))
    for split, content in data.items():
        write(folder / f"{split}.bin", content)


def tfds_cifar10(root):
    _tfds_cifar(root, "cifar10", CIFAR10, 10, {})


def tfds_cifar100(root):
    _tfds_cifar(root, "cifar100", CIFAR100, TRAIN, {"coarse_label": ("fruit", "animals")})


def _tfds_cifar(root, name, classes, train, more):
    rows = {"train": [], "test": []}
    for e in examples(4, train=train):
        key = f"{e.split}_{len(rows[e.split]):05d}"
        row = {"id": key, "image": e.picture(32), "label": e.label}
        rows[e.split].append((key, row | dict.fromkeys(more, e.label % 2)))
    prepare(root, name, "3.0.2", rows, {"id": "text", "label": classes, **more}, (32, 32, 3))


# Folders of pictures with lists

# In the order of the official classes.txt, which is not the alphabet's.
FOOD = ("apple_pie", "cheesecake", "cheese_plate", "waffles")


def food_id(e):
    return f"{FOOD[e.label]}/{100 * (e.split == 'test') + e.number + 1000}"


def make_food101(root):
    folder = root / "food101" / "food-101"
    write(folder / "meta/classes.txt", "\n".join(FOOD) + "\n")
    lists = {split: {name: [] for name in FOOD} for split in ("train", "test")}
    for e in examples(4):
        lists[e.split][FOOD[e.label]].append(food_id(e))
        write(folder / f"images/{food_id(e)}.jpg", encode(e.picture()))
    for split, content in lists.items():
        write(folder / f"meta/{split}.json", json.dumps(content))


def tfds_food101(root):
    rows = {"train": [], "validation": []}
    for e in examples(4):
        row = {"id": food_id(e), "image": io.BytesIO(encode(e.picture())), "label": e.label}
        rows["validation" if e.split == "test" else "train"].append((food_id(e), row))
    prepare(root, "food101", "2.1.0", rows, {"id": "text", "label": FOOD})


PETS = ("Abyssinian", "american_bulldog", "Bengal", "yorkshire_terrier")


def pet_name(e):
    return f"{PETS[e.label]}_{100 * (e.split == 'test') + e.number + 1}"


def make_pets(root):
    folder = root / "pets"
    lists = {"train": "", "test": ""}
    for e in examples(4):
        lists[e.split] += f"{pet_name(e)} {e.label + 1} {1 + e.label % 2} {e.label // 2 + 1}\n"
        write(folder / f"images/{pet_name(e)}.jpg", encode(e.picture()))
    write(folder / "images/Abyssinian_100.mat", b"also in the archive")
    write(folder / "annotations/trainval.txt", lists["train"])
    write(folder / "annotations/test.txt", lists["test"])


def tfds_pets(root):
    rows = {"train": [], "test": []}
    for e in examples(4):
        row = {
            "image": io.BytesIO(encode(e.picture())),
            "label": e.label,
            "species": e.label % 2,
            "file_name": f"{pet_name(e)}.jpg",
            "segmentation_mask": np.full((48, 48, 1), 1, np.uint8),
            "head_bbox": (0.0, 0.0, 0.0, 0.0),
        }
        rows[e.split].append((row["file_name"], row))
    features = {
        "label": PETS,
        "species": ("Cat", "Dog"),
        "file_name": "text",
        "segmentation_mask": "mask",
        "head_bbox": "box",
    }
    prepare(root, "oxford_iiit_pet", "4.0.0", rows, features)


FLOWERS = ("pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea")


def make_flowers102(root):
    folder = root / "flowers102"
    found = examples(4)
    for i, e in enumerate(found, start=1):
        write(folder / f"jpg/image_{i:05d}.jpg", encode(e.picture()))
    write_mat(folder / "imagelabels.mat", {"labels": np.array([[e.label + 1 for e in found]])})
    ids = {
        split: np.array([[i for i, e in enumerate(found, start=1) if e.split == split]])
        for split in ("train", "test")
    }
    content = {"trnid": ids["train"][:, :-4], "valid": ids["train"][:, -4:], "tstid": ids["test"]}
    write_mat(folder / "setid.mat", content)


def tfds_flowers102(root):
    rows = {"train": [], "test": [], "validation": []}
    found = examples(4)
    last = sum(e.split == "train" for e in found) - 4
    for i, e in enumerate(found, start=1):
        name = f"image_{i:05d}.jpg"
        row = {"image": io.BytesIO(encode(e.picture())), "label": e.label, "file_name": name}
        held = e.split == "train" and i > last
        rows["validation" if held else e.split].append((name, row))
    features = {"label": FLOWERS, "file_name": "text"}
    prepare(root, "oxford_flowers102", "2.1.1", rows, features)


SUN = ("/a/abbey", "/a/airplane_cabin", "/c/church/outdoor", "/y/yard")


def sun_name(e):
    return f"{SUN[e.label]}/sun_{'abcdefghij'[e.number]}{e.split}.jpg"


def make_sun397(root):
    folder = root / "sun397"
    lists = {"train": "", "test": ""}
    for e in examples(4):
        lists[e.split] += sun_name(e) + "\n"
        write(folder / f"SUN397{sun_name(e)}", encode(e.picture()))
    # One of the two pictures that cannot be decoded is in the lists and on disk.
    bad = "/c/church/outdoor/sun_bhenjvsvrtumjuri.jpg"
    write(folder / f"SUN397{bad}", b"no picture")
    write(folder / "Partitions/ClassName.txt", "\n".join(SUN) + "\n")
    write(folder / "Partitions/Training_01.txt", lists["train"] + bad + "\n")
    write(folder / "Partitions/Testing_01.txt", lists["test"])


def tfds_sun397(root):
    rows = {"train": [], "test": []}
    for e in examples(4):
        row = {
            "image": io.BytesIO(encode(e.picture())),
            "label": e.label,
            "file_name": sun_name(e),
        }
        rows[e.split].append((sun_name(e), row))
    features = {"label": SUN, "file_name": "text"}
    prepare(root, "sun397", "4.0.0", rows, features, config="standard-part1-120k")


CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012")


def make_cars(root):
    folder = root / "cars"
    names = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    rows = {"train": [], "test": []}
    for e in examples(3):
        file = f"{len(rows[e.split]) + 1:05d}.jpg"
        rows[e.split].append([1, 1, 40, 40, e.label + 1, file])
        write(folder / f"cars_{e.split}/{file}", encode(e.picture()))
    classes = np.array([list(CARS)], object)
    write_mat(folder / "devkit/cars_meta.mat", {"class_names": classes})
    write_mat(
        folder / "devkit/cars_train_annos.mat", {"annotations": records(names, rows["train"])}
    )
    write_mat(
        folder / "cars_test_annos_withlabels.mat", {"annotations": records(names, rows["test"])}
    )


def tfds_cars(root):
    rows = {"train": [], "test": []}
    for e in examples(3):
        key = f"{len(rows[e.split]) + 1:05d}"
        row = {
            "id": key,
            "image": io.BytesIO(encode(e.picture())),
            "label": e.label,
            "bbox": (0.0, 0.0, 1.0, 1.0),
        }
        rows[e.split].append((key, row))
    prepare(root, "cars196", "2.1.0", rows, {"id": "text", "label": CARS, "bbox": "box"})


DTD = ("banded", "blotchy", "braided", "zigzagged")


def dtd_name(e):
    return f"{DTD[e.label]}/{DTD[e.label]}_{100 * (e.split == 'test') + e.number:04d}.jpg"


def make_dtd(root):
    folder = root / "dtd" / "dtd"
    lists = {"train": "", "test": ""}
    for e in examples(4):
        lists[e.split] += dtd_name(e) + "\n"
        write(folder / f"images/{dtd_name(e)}", encode(e.picture()))
    for split, content in lists.items():
        write(folder / f"labels/{split}1.txt", content)


def tfds_dtd(root):
    rows = {"train": [], "test": []}
    for e in examples(4):
        row = {"image": io.BytesIO(encode(e.picture())), "label": e.label, "file_name": dtd_name(e)}
        rows[e.split].append((dtd_name(e), row))
    prepare(root, "dtd", "3.0.1", rows, {"label": DTD, "file_name": "text"})


CALTECH = ("accordion", "BACKGROUND_Google", "Faces")
CALTECH_COUNT = 35


def make_caltech101(root):
    folder = root / "caltech101" / "101_ObjectCategories"
    for label, name in enumerate(CALTECH):
        for i in range(CALTECH_COUNT):
            write(folder / name / f"image_{i + 1:04d}.jpg", encode(picture(label, i)))
    write(folder / "BACKGROUND_Google" / "tmp", b"also in the archive")


def tfds_caltech101(root):
    # TFDS' own split differs from ours: here it even has another number of training pictures.
    rows = {"train": [], "test": []}
    for label, name in enumerate(CALTECH):
        for i in range(CALTECH_COUNT):
            row = {
                "image": io.BytesIO(encode(picture(label, i))),
                "label": label,
                "image/file_name": f"image_{i + 1:04d}.jpg",
            }
            rows["train" if i % 2 else "test"].append((f"{name}/{row['image/file_name']}", row))
    names = tuple(name.lower() for name in CALTECH)
    prepare(root, "caltech101", "3.0.2", rows, {"label": names, "image/file_name": "text"})


EUROSAT = ("AnnualCrop", "Forest", "HerbaceousVegetation", "SeaLake")
RESISC = ("airplane", "railway", "railway_station", "wetland")
SATELLITE_COUNT = 20


def satellite_names(classes, form):
    return [
        (label, i, form.format(name, i + 1))
        for label, name in enumerate(classes)
        for i in range(SATELLITE_COUNT)
    ]


def make_eurosat(root):
    for label, i, name in satellite_names(EUROSAT, "{}_{}.jpg"):
        write(root / "eurosat/2750" / EUROSAT[label] / name, encode(picture(label, i, 64)))


def make_resisc45(root):
    for label, i, name in satellite_names(RESISC, "{}_{:03d}.jpg"):
        path = root / "resisc45/NWPU-RESISC45" / RESISC[label] / name
        write(path, encode(picture(label, i, 64)))


def tfds_eurosat(root):
    _tfds_satellite(root, "eurosat", "2.0.0", EUROSAT, "{}_{}.jpg", "rgb")


def tfds_resisc45(root):
    _tfds_satellite(root, "resisc45", "3.0.0", RESISC, "{}_{:03d}.jpg", None)


def _tfds_satellite(root, name, version, classes, form, config):
    rows = [
        (
            f"{classes[label]}_{file}",
            {
                "image": io.BytesIO(encode(picture(label, i, 64))),
                "label": label,
                "filename": file,
            },
        )
        for label, i, file in satellite_names(classes, form)
    ]
    features = {"label": classes, "filename": "text"}
    prepare(root, name, version, {"train": rows}, features, (64, 64, 3), config)


AIRCRAFT = ("707-320", "727-200", "A330-200", "Boeing 717")


def make_aircraft(root):
    folder = root / "aircraft" / "fgvc-aircraft-2013b" / "data"
    write(folder / "variants.txt", "\n".join(AIRCRAFT) + "\n")
    lists = {"train": "", "test": ""}
    for i, e in enumerate(examples(4)):
        name = f"{34309 + i:07d}"
        lists[e.split] += f"{name} {AIRCRAFT[e.label]}\n"
        banner = np.full((20, 60, 3), 255, np.uint8)
        write(folder / f"images/{name}.jpg", encode(np.concatenate([e.picture(60), banner])))
    for split, content in lists.items():
        write(folder / f"images_variant_{split}.txt", content)


def make_gtsrb(root):
    folder = root / "gtsrb"
    header = ("Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
    rows = {}
    for e in examples(4):
        if e.split == "train":
            inner, name = f"{e.label:05d}", f"{e.number // 30:05d}_{e.number % 30:05d}.ppm"
            path = folder / f"GTSRB/Final_Training/Images/{inner}"
            listing = path / f"GT-{inner}.csv"
        else:
            path, listing = folder / "GTSRB/Final_Test/Images", folder / "GT-final_test.csv"
            name = f"{len(rows.get(listing, ())):05d}.ppm"
        write(path / name, encode(e.picture(), "PPM"))
        rows.setdefault(listing, []).append((name, 48, 48, 5, 5, 43, 43, e.label))
    for listing, content in rows.items():
        write_csv(listing, header, content, ";")


def make_retinopathy(root):
    folder = root / "retinopathy"
    rows = {"train": [], "test": []}
    for i, e in enumerate(examples(5)):
        name = f"{10 + i}_{'left' if i % 2 else 'right'}"
        rows[e.split].append((name, e.label))
        write(folder / e.split / f"{name}.jpeg", encode(eye(e)))
    write_csv(folder / "trainLabels.csv", ("image", "level"), rows["train"])
    # The leaderboard's public part is TFDS' validation split.
    private = [(name, level, "Private") for name, level in rows["test"]]
    public = [("1_left", 0, "Public")]
    write_csv(folder / "retinopathy_solution.csv", ("image", "level", "Usage"), public + private)


def eye(e):
    """A disc on black whose fine stripes differ by class: colour alone is taken away by the preparation."""
    y, x = np.mgrid[:64, :64]
    inside = (y - 32) ** 2 + (x - 32) ** 2 < 30**2
    colour = e.picture(64).astype(np.int64)
    stripes = np.where((x // (2 + 2 * e.label)) % 2, 40, -40)[..., None]
    return np.where(inside[..., None], colour + stripes, 0).clip(0, 255).astype(np.uint8)


def tfds_retinopathy(root):
    rows = {"sample": [], "train": [], "validation": [], "test": []}
    for i, e in enumerate(examples(5)):
        name = f"{10 + i}_{'left' if i % 2 else 'right'}"
        row = {"name": name, "image": io.BytesIO(encode(eye(e))), "label": e.label}
        rows[e.split].append((name, row))
    rows["validation"].append(("1_left", rows["train"][0][1] | {"name": "1_left"}))
    rows["sample"].append(("2_left", rows["train"][0][1] | {"name": "2_left", "label": -1}))
    prepare(
        root,
        "diabetic_retinopathy_detection",
        "3.0.0",
        rows,
        {"name": "text", "label": 5},
        config="btgraham-300",
    )


UCF = ("ApplyEyeMakeup", "Archery", "HandstandPushups", "YoYo")


def make_ucf101(root):
    folder = root / "ucf101"
    lists = folder / "ucfTrainTestlist"
    write(lists / "classInd.txt", "".join(f"{i} {name}\r\n" for i, name in enumerate(UCF, 1)))
    rows = {"train": "", "test": ""}
    for e in examples(4):
        group = e.number + (1 if e.split == "test" else 8)
        video = f"{UCF[e.label]}/v_{UCF[e.label]}_g{group:02d}_c01"
        write(folder / f"frames/{video}.jpg", encode(e.picture()))
        # The lists spell one class's files in another way than its folder.
        video = video.replace("v_HandstandPushups", "v_HandStandPushups")
        rows[e.split] += f"{video}.avi{f' {e.label + 1}' if e.split == 'train' else ''}\r\n"
    write(lists / "trainlist01.txt", rows["train"])
    write(lists / "testlist01.txt", rows["test"])


KINETICS = ("abseiling", "air drumming", 'playing "o", loud', "zumba")


def make_kinetics700(root):
    folder = root / "kinetics700"
    header = ("label", "youtube_id", "time_start", "time_end", "split")
    rows = {"train": [], "val": []}
    for i, e in enumerate(examples(4)):
        part = "val" if e.split == "test" else "train"
        video = f"-{i:03d}_ab-XYZ"
        rows[part].append((KINETICS[e.label], video, i, i + 10, part))
        write(folder / f"frames/{part}/{video}_{i:06d}_{i + 10:06d}.jpg", encode(e.picture()))
    rows["train"].append(("zumba", "gone_videos", 3, 13, "train"))
    for part, content in rows.items():
        write_csv(folder / f"annotations/{part}.csv", header, content)
    write(folder / "missing.txt", "gone_videos_000003_000013\n")


# Large files

USAGES = {"train": "Training", "test": "PrivateTest"}


def make_fer2013(root):
    rows = [
        (e.label, " ".join(map(str, grey(e).reshape(-1))), USAGES[e.split]) for e in examples(7)
    ]
    rows.insert(5, (3, " ".join(["9"] * 48 * 48), "PublicTest"))
    write_csv(root / "fer2013/fer2013.csv", ("emotion", "pixels", "Usage"), rows)


def grey(e):
    """uint8 [48,48] whose brightness is the class."""
    seed = (int(e.split == "test"), e.label, e.number)
    noise = np.random.default_rng(seed).integers(0, 9, (48, 48))
    return (30 * e.label + 10 + noise).astype(np.uint8)


def make_svhn(root):
    for split in ("train", "test"):
        found = [e for e in examples(10) if e.split == split]
        labels = np.array([[e.label or 10] for e in found], np.uint8)
        pictures = np.stack([e.picture(32) for e in found], axis=-1)
        write_mat(root / f"svhn/{split}_32x32.mat", {"X": pictures, "y": labels})


def tfds_svhn(root):
    rows = {"train": [], "test": []}
    for e in examples(10):
        key = f"{e.split}_{len(rows[e.split]):06d}"
        rows[e.split].append((key, {"id": key, "image": e.picture(32), "label": e.label}))
    prepare(root, "svhn_cropped", "3.1.0", rows, {"id": "text", "label": 10}, (32, 32, 3))


def make_pcam(root):
    rows = {"train": [], "test": [], "validation": []}
    for e in examples(2):
        key = f"{e.split}_{len(rows[e.split])}"
        rows[e.split].append((key, {"id": key, "image": e.picture(96), "label": e.label}))
    rows["validation"].append(("valid_0", rows["train"][0][1] | {"id": "valid_0"}))
    prepare(root, "patch_camelyon", "2.0.0", rows, {"id": "text", "label": 2}, (96, 96, 3))


IMAGENET = ("n01440764", "n01443537", "n02084071", "n02123045")
# The devkit's numbers are in another order than the WordNet ids.
IMAGENET_NUMBERS = (3, 1, 4, 2)


def imagenet_name(e):
    if e.split == "train":
        return f"{IMAGENET[e.label]}_{10026 + e.number}.JPEG"
    return f"ILSVRC2012_val_{4 * e.number + e.label + 1:08d}.JPEG"


def tar_of(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_imagenet(root):
    folder = root / "imagenet"
    found = examples(4)
    train = [
        (
            f"{name}.tar",
            tar_of(
                [
                    (imagenet_name(e), encode(e.picture()))
                    for e in found
                    if e.split == "train" and e.label == i
                ]
            ),
        )
        for i, name in enumerate(IMAGENET)
    ]
    write(folder / "ILSVRC2012_img_train.tar", tar_of(train))
    test = [e for e in found if e.split == "test"]
    # As published, not in the order of their names.
    members = [(imagenet_name(e), encode(e.picture())) for e in reversed(test)]
    write(folder / "ILSVRC2012_img_val.tar", tar_of(members))
    devkit = folder / "ILSVRC2012_devkit_t12/data"
    answers = [IMAGENET_NUMBERS[e.label] for e in sorted(test, key=imagenet_name)]
    write(devkit / "ILSVRC2012_validation_ground_truth.txt", "".join(f"{a}\n" for a in answers))
    numbered = sorted(zip(IMAGENET_NUMBERS, IMAGENET, strict=True))
    rows = [[number, wnid, "words, more words", "a gloss", 0, []] for number, wnid in numbered]
    rows.append([1001, "n00001740", "entity", "all", 2, [1, 2]])
    names = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
    write_mat(devkit / "meta.mat", {"synsets": records(names, rows).T})


def tfds_imagenet(root):
    rows = {"train": [], "validation": []}
    for e in examples(4):
        name = imagenet_name(e)
        row = {"image": io.BytesIO(encode(e.picture())), "label": e.label, "file_name": name}
        rows["validation" if e.split == "test" else "train"].append((name, row))
    prepare(root, "imagenet2012", "5.1.0", rows, {"label": IMAGENET, "file_name": "text"})


def prepare(root, name, version, rows, features, shape=(None, None, 3), config=None):
    """Write ROOT/tfds/NAME[/CONFIG]/VERSION with TFDS itself, without TensorFlow.

    `rows` maps a split to (key, example); `features` a feature to "text", "mask", "box", class names or their number.
    """
    import tensorflow_datasets as tfds

    def feature(kind):
        if kind == "mask":
            return tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        if kind in ("text", "box"):
            return tfds.features.Text() if kind == "text" else tfds.features.BBoxFeature()
        several = {"num_classes": kind} if isinstance(kind, int) else {"names": kind}
        return tfds.features.ClassLabel(**several)

    lossless = "png" if shape[0] in (32, 96) else "jpeg"
    content = {
        "image": tfds.features.Image(shape=shape, encoding_format=lossless),
        **{key: feature(kind) for key, kind in features.items()},
    }

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []
        # Else the builder looks for metadata files beside this one.
        pkg_dir_path = root

        def _info(self):
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(content))

        def _split_generators(self, _dl_manager):
            return {split: iter(found) for split, found in rows.items()}

        def _generate_examples(self):
            raise NotImplementedError("splits are given as iterators")

    Tiny.name = name
    folder = pathlib.Path(root) / "tfds"
    folder.mkdir(parents=True, exist_ok=True)
    for found in rows.values():
        for _, row in found:
            for key, value in row.items():
                if isinstance(value, np.ndarray):
                    # As TFDS encodes arrays, for which it would need TensorFlow.
                    row[key] = io.BytesIO(encode(value.squeeze(), "PNG"))
                elif features.get(key) == "box":
                    row[key] = tfds.features.BBox(*value)
    Tiny(data_dir=str(folder), file_format="array_record").download_and_prepare()


MAKERS = {
    "cifar10": make_cifar10,
    "cifar100": make_cifar100,
    "food101": make_food101,
    "pets": make_pets,
    "flowers102": make_flowers102,
    "sun397": make_sun397,
    "cars": make_cars,
    "dtd": make_dtd,
    "caltech101": make_caltech101,
    "aircraft": make_aircraft,
    "svhn": make_svhn,
    "eurosat": make_eurosat,
    "resisc45": make_resisc45,
    "retinopathy": make_retinopathy,
    "fer2013": make_fer2013,
    "ucf101": make_ucf101,
    "gtsrb": make_gtsrb,
    "pcam": make_pcam,
    "imagenet": make_imagenet,
    "kinetics700": make_kinetics700,
}
TFDS_MAKERS = {
    "cifar10": tfds_cifar10,
    "cifar100": tfds_cifar100,
    "food101": tfds_food101,
    "pets": tfds_pets,
    "flowers102": tfds_flowers102,
    "sun397": tfds_sun397,
    "cars": tfds_cars,
    "dtd": tfds_dtd,
    "caltech101": tfds_caltech101,
    "svhn": tfds_svhn,
    "eurosat": tfds_eurosat,
    "resisc45": tfds_resisc45,
    "retinopathy": tfds_retinopathy,
    "pcam": make_pcam,
    "imagenet": tfds_imagenet,
}
