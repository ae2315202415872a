"""Sources over packs: classification, image-text pairs, rooms."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.ndimage

from intern_jax.core.config import UserError
from intern_jax.data.embedded import packs
from intern_jax.data.embedded.packs import Embedded, pack
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.source import ClassSets, distinct
from intern_jax.data.sources.scenes import BoxesOf
from intern_jax.families.fields import IGNORE

Sample = dict[str, Any]
BARE = 3  # classes of rooms without boxes: wall, floor, ceiling


def words(name: str) -> str:
    """A class name as words: "food/breads_and_carbs" -> "breads and carbs"."""
    return " ".join(name.split("/")[-1].replace("_", " ").replace("-", " ").split())


class Table(Embedded):
    """Records of one pack with labels: a classification source."""

    family = "classification"

    def __init__(
        self,
        name: str,
        pack_name: str,
        rows: Sequence[int],
        names: Sequence[str],
        classes: Sequence[str],
    ):
        self.name, self.pack_name = name, pack_name
        order = {c: i for i, c in enumerate(classes)}
        self.rows = np.asarray(rows, np.int64)
        self.labels = np.asarray([order[n] for n in names], np.int32)
        self.classes = tuple(map(words, classes))
        keys = pack(pack_name).keys
        self.keys = [keys[i] for i in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Sample:
        label = int(self.labels[i])
        picture = pack(self.pack_name).array(int(self.rows[i]))
        return {
            "image": picture,
            "label": label,
            "texts": [self.classes[label]],
            "key": self.keys[i],
        }

    def fingerprint(self) -> str:
        """A digest of the pack, the rows, their labels and the classes."""
        rows = (self.rows, self.labels, self.classes)
        return fingerprints.combine(self.name, pack(self.pack_name).fingerprint, *rows)


class Pairs(Embedded):
    """Concepts with several pictures and texts: `members` holds the records of each concept."""

    family = "pairs"
    classes: tuple[str, ...] = ()
    labels = None

    def __init__(
        self,
        name: str,
        pack_name: str,
        keys: Sequence[str],
        members: Sequence[Sequence[int]],
        texts: Sequence[Sequence[str]],
    ):
        self.name, self.pack_name = name, pack_name
        self.keys = list(keys)
        self.members = [list(m) for m in members]
        self.texts = [list(t) for t in texts]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> Sample:
        pictures = [pack(self.pack_name).array(m) for m in self.members[i]]
        sample = {"image": pictures[0], "texts": list(self.texts[i]), "key": self.keys[i]}
        if len(pictures) > 1:
            sample["views"] = pictures[1:]
        return sample

    def fingerprint(self) -> str:
        """A digest of the pack, the concepts, their records and texts."""
        concepts = (self.keys, self.members, self.texts)
        return fingerprints.combine(self.name, pack(self.pack_name).fingerprint, *concepts)


class Rooms(Embedded):
    """Rendered rooms with some `fields` of mask, depth and boxes. Depth is in metres along the optical axis.

    Box labels are mask classes. Classes 0 wall, 1 floor and 2 ceiling have no boxes.
    """

    labels = None

    def __init__(self, name: str, split: str, family: str, fields: Sequence[str]):
        self.name, self.family, self.fields = name, family, tuple(fields)
        index = pack("rooms").index
        self.rows = [i for i, s in enumerate(index["split"]) if s == split]
        self.keys = [index["key"][i] for i in self.rows]
        self.classes = tuple(index["classes"]) if "mask" in fields else ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Sample:
        store, row = pack("rooms"), self.rows[i]
        sample: Sample = {"image": store.array(row), "key": self.keys[i]}
        if "mask" in self.fields:
            sample["mask"] = store.array(row, "mask")
        if "depth" in self.fields:
            units = store.array(row, "depth")
            scale = np.float32(store.index["depth_unit_metres"])
            sample["depth"] = units.astype(np.float32) * scale
            sample["depth_valid"] = units > 0
        if "boxes" in self.fields:
            header = store.header(row)
            sample["boxes"] = np.asarray(header["boxes"], np.float32).reshape(-1, 4)
            sample["box_labels"] = np.asarray(header["box_labels"], np.int32)
        if self.family == "detection":
            sample |= _with_slivers(sample)
        return sample

    def class_sets(self) -> ClassSets | None:
        """The classes of each room's boxes, which stand beside the pictures."""
        if "boxes" not in self.fields:
            return None
        store = pack("rooms")
        return [distinct(store.header(row)["box_labels"]) for row in self.rows]

    def fingerprint(self) -> str:
        """A digest of the pack, the rows and the fields."""
        parts = (self.name, self.fields, self.rows, self.classes)
        return fingerprints.combine(*parts, pack("rooms").fingerprint)


def _with_slivers(sample: Sample) -> Sample:
    """The boxes of a room, and ignored ones of furniture of which so little is seen that it has none."""
    mask, boxes, labels = sample["mask"], sample["boxes"], sample["box_labels"]
    rest = np.where((mask >= BARE) & (mask != IGNORE), mask, 0)
    for (x1, y1, x2, y2), label in zip(boxes.astype(int), labels, strict=True):
        inside = rest[y1:y2, x1:x2]
        inside[inside == label] = 0
    more, numbers = [], []
    for label in np.unique(rest[rest > 0]):
        for y, x in scipy.ndimage.find_objects(scipy.ndimage.label(rest == label)[0]):
            more.append([x.start, y.start, x.stop, y.stop])
            numbers.append(label)
    return {
        "boxes": np.concatenate([boxes, np.asarray(more, np.float32).reshape(-1, 4)]),
        "box_labels": np.concatenate([labels, np.asarray(numbers, np.int32)]),
        "box_ignore": np.arange(len(boxes) + len(more)) >= len(boxes),
    }


def emoji_rows(concept_splits: Sequence[str], unseen_style: bool) -> list[int]:
    """Records of the concepts in these splits, in the pool styles or in the unseen one."""
    index = packs.pack("emoji").index
    concepts, unseen = index["concepts"], index["unseen_style"]
    return [
        i
        for i, (c, s) in enumerate(zip(index["concept"], index["style"], strict=True))
        if concepts[c]["split"] in concept_splits and (s == unseen) == unseen_style
    ]


def _of_emoji(rows: Sequence[int], field: str) -> list[str]:
    index = packs.pack("emoji").index
    return [index["concepts"][index["concept"][i]][field] for i in rows]


def _table(
    name: str, pack_name: str, rows: Sequence[int], names: Sequence[str], classes: Sequence[str]
) -> Table:
    """The rows whose class is among `classes`."""
    kept = [(r, n) for r, n in zip(rows, names, strict=True) if n in set(classes)]
    return Table(name, pack_name, [r for r, _ in kept], [n for _, n in kept], classes)


def _emoji_task(
    name: str,
    field: str,
    splits: Mapping[str, Sequence[str]],
    split: str,
    unseen: bool,
    least: tuple[int, int],
) -> Table:
    """Emoji labelled by subgroup or group, over the classes with enough of both splits."""
    rows = {s: emoji_rows(concepts, unseen) for s, concepts in splits.items()}
    names = {s: _of_emoji(r, field) for s, r in rows.items()}
    counts = {s: Counter(n) for s, n in names.items()}
    classes = sorted(
        c
        for c in counts["train"]
        if counts["train"][c] >= least[0] and counts["test"][c] >= least[1]
    )
    return _table(name, "emoji", rows[split], names[split], classes)


def emoji_style(split: str) -> Table:
    """Subgroups in the unseen 3-D style; test concepts are unseen in every style."""
    return _emoji_task("emoji_style", "subgroup", STYLE_SPLITS, split, True, (5, 2))


def emoji_style_group(split: str) -> Table:
    """Groups in the unseen 3-D style; test concepts are unseen in every style."""
    return _emoji_task("emoji_style_group", "group", STYLE_SPLITS, split, True, (5, 2))


def emoji_concept(split: str) -> Table:
    """Groups of unseen concepts in the styles seen before; train and test share no concept."""
    splits = {"train": ("train",), "test": ("test",)}
    return _emoji_task("emoji_concept", "group", splits, split, False, (5, 5))


STYLE_SPLITS = {"train": ("pool",), "test": ("train", "test")}


def emoji_groups() -> Table:
    """Pool concepts in the pool styles, labelled by subgroup."""
    rows = emoji_rows(("pool",), False)
    names = _of_emoji(rows, "subgroup")
    counts = Counter(names)
    return _table("emoji_groups", "emoji", rows, names, sorted(c for c in counts if counts[c] >= 8))


def emoji_pairs() -> Pairs:
    """One element per pool concept: its pictures in the pool styles, its label and its tags."""
    index = packs.pack("emoji").index
    members: dict[str, list[int]] = {}
    for i in emoji_rows(("pool",), False):
        members.setdefault(index["concept"][i], []).append(i)
    facts = index["concepts"]
    texts = [[facts[c]["label"], *facts[c]["tags"]] for c in members]
    return Pairs(
        "emoji_pairs", "emoji", [f"emoji/{c}" for c in members], list(members.values()), texts
    )


def _clipart(name: str, wanted: Sequence[str], role: str) -> Table:
    index = pack("clipart").index
    rows = [
        i
        for i, s in enumerate(index["split"])
        if s in wanted and index["leaves"][index["leaf"][i]] == role
    ]
    classes = sorted(leaf for leaf, r in index["leaves"].items() if r == role)
    return _table(name, "clipart", rows, [index["leaf"][i] for i in rows], classes)


def clipart_pool() -> Table:
    """Clipart of the pool leaves."""
    return _clipart("clipart_pool", ("pool",), "pool")


def clipart_leaf(split: str) -> Table:
    """Clipart of the benchmark leaves: neither leaves nor files are in the pool."""
    return _clipart("clipart_leaf", (split,), "bench")


def clipart_pairs() -> Pairs:
    """Pool clipart with the words of its file name and the name of its folder."""
    index = pack("clipart").index
    rows = [i for i, s in enumerate(index["split"]) if s == "pool" and index["words"][i]]
    texts = []
    for i in rows:
        folder = words(index["leaf"][i])
        known = folder not in ("unsorted",)
        texts.append([index["words"][i], *([folder] if known else [])])
    return Pairs(
        "clipart_pairs", "clipart", [index["key"][i] for i in rows], [[i] for i in rows], texts
    )


def _fashion(name: str, split: str) -> Table:
    index = pack("fashion").index
    rows = [i for i, s in enumerate(index["split"]) if s == split]
    pool = {index["classes"][i] for i in index["pool_classes"]}
    classes = [c for c in index["classes"] if (c in pool) == (split == "pool")]
    table = Table(
        name, "fashion", rows, [index["classes"][index["label"][i]] for i in rows], classes
    )
    table.classes = tuple(c.replace("/", " or ").lower() for c in classes)
    return table


def fashion_pool() -> Table:
    """Five classes of Fashion-MNIST's train split."""
    return _fashion("fashion_pool", "pool")


def fashion(split: str) -> Table:
    """The other five classes; the test split is the official one's."""
    return _fashion("fashion", split)


def furniture(split: str) -> Table:
    """Catalogue icons by room; a model name is in one split only."""
    index = pack("furniture").index
    rows = [i for i, s in enumerate(index["split"]) if s == split]
    counts = Counter((index["category"][i], index["split"][i]) for i in range(len(index["key"])))
    classes = [c for c in index["classes"] if counts[c, "train"] >= 5 and counts[c, "test"] >= 5]
    return _table("furniture", "furniture", rows, [index["category"][i] for i in rows], classes)


def room_pool() -> Rooms:
    """Rooms with the pool's furniture: mask, depth and boxes."""
    return Rooms("room_pool", "pool", "segmentation", ("mask", "depth", "boxes"))


def room_boxes() -> BoxesOf:
    """The same rooms with the boxes of their furniture alone."""
    return BoxesOf(Rooms("room_boxes", "pool", "detection", ("mask", "boxes")), "room_boxes", BARE)


def rooms_seg(split: str) -> Rooms:
    """Rooms with furniture unseen before: mask and boxes."""
    return Rooms("rooms_seg", split, "segmentation", ("mask", "boxes"))


def rooms_det(split: str) -> BoxesOf:
    """The same rooms with the boxes of their furniture."""
    name = f"rooms_det/{split}"
    return BoxesOf(Rooms(name, split, "detection", ("mask", "boxes")), name, BARE)


def rooms_depth(split: str) -> Rooms:
    """The same rooms with depth in metres."""
    return Rooms("rooms_depth", split, "depth", ("depth",))


def refuse_split(name: str, split: str) -> str:
    """The split if it is "train" or "test"."""
    if split not in ("train", "test"):
        raise UserError(f"{name}/split: {split!r}; give 'train' or 'test'")
    return split
