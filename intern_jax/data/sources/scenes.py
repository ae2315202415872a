"""Scenes composed at load time from cut-outs. A scene is a pure function of (seed, index) and of the cut-outs.

Objects stand in depth order on a procedural ground: a lower object is nearer and larger. Boxes are
the visible extents. The mask holds the group of every visible pixel, and 0 for the ground. Box
labels are mask classes. An object that is mostly hidden keeps its mask but has no box.
Legend: S side of the square picture in pixels, N cut-outs.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from intern_jax.core.config import UserError, format_of, formatted
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.source import ClassSets, known_class_sets

FAMILIES = ("segmentation", "detection", "pairs")
MOST_GROUPS = 254  # of a mask, beside 0 for the ground and 255 for what is ignored
VISIBLE = 24  # an alpha up to this is not seen

GROUNDS = (  # name in captions, far colour, near colour, roughness
    ("on grass", (150, 200, 130), (70, 140, 60), 26),
    ("on sand", (236, 222, 176), (206, 178, 120), 16),
    ("on snow", (232, 240, 248), (205, 216, 230), 10),
    ("on water", (140, 190, 226), (50, 110, 180), 22),
    ("on stone", (170, 170, 168), (110, 110, 112), 28),
    ("on wood", (200, 160, 110), (140, 96, 56), 20),
    ("at night", (30, 34, 70), (14, 16, 34), 14),
    ("under the sky", (120, 180, 240), (200, 224, 248), 12),
)
COUNTS = ("no", "one", "two", "three", "four", "five")


Cut = tuple[np.ndarray, np.ndarray]


class CutOuts(Protocol):
    """Pictures with a transparent ground, each of one group: what scenes are made of. Safe to call from threads."""

    @property
    def names(self) -> Sequence[str]:
        """Per cut-out what a caption calls it: N."""
        ...

    @property
    def groups(self) -> Sequence[str]:
        """The groups' names as words."""
        ...

    @property
    def group(self) -> np.ndarray:
        """Per cut-out its position in `groups`: int64 [N]."""
        ...

    @property
    def selection(self) -> str:
        """Which of the cut-outs in the files are taken, as plain text."""
        ...

    def __len__(self) -> int: ...

    def cut(self, sprite: int, height: int) -> Cut | None:
        """As the function `cut` gives it; None of a picture that is no cut-out, which scenes then leave out."""
        ...

    def fingerprint(self) -> str:
        """A digest of the files."""
        ...


def visible_box(picture: np.ndarray) -> tuple[int, int, int, int] | None:
    """The extent x1 y1 x2 y2 of what is seen of an RGBA picture uint8 [h, w, 4]; None if nothing is."""
    alpha = Image.fromarray(picture).getchannel("A")
    return alpha.point(lambda a: 255 * (a > VISIBLE)).getbbox()


def cut(picture: np.ndarray, height: int) -> Cut:
    """The visible part of an RGBA picture uint8 [h, w, 4], so that its longer side is `height` pixels.

    (premultiplied colour uint16 [h, w, 3], alpha uint16 [h, w, 1]). No side is below 2 pixels.
    """
    image = Image.fromarray(picture)
    box = visible_box(picture) or (0, 0, *image.size)
    scale = height / max(box[2] - box[0], box[3] - box[1])
    size = (max(2, round((box[2] - box[0]) * scale)), max(2, round((box[3] - box[1]) * scale)))
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box), np.uint16)
    return pixels[:, :, :3] * pixels[:, :, 3:], pixels[:, :, 3:]


def textured(rng: np.random.Generator, size: int) -> tuple[np.ndarray, str]:
    """Textured ground uint8 [S, S, 3] that darkens towards the viewer, and its words."""
    name, far, near, rough = GROUNDS[int(rng.integers(len(GROUNDS)))]
    ramp = np.linspace(0, 1, 8, dtype=np.float32)[:, None, None]
    tint = rng.normal(0, 12, 3).astype(np.float32)
    far_colour, near_colour = np.asarray(far, np.float32), np.asarray(near, np.float32)
    base = far_colour * (1 - ramp) + near_colour * ramp + tint[None, None]
    coarse = base + rng.normal(0, rough * 0.6, (8, 8, 1)).astype(np.float32)
    small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    ground = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), np.int16)
    cells = -(-size // 2)
    fine = rng.integers(-rough // 2, rough // 2 + 1, (cells, cells), np.int16)
    fine = fine.repeat(2, 0).repeat(2, 1)[:size, :size, None]
    return np.clip(ground + fine, 0, 255).astype(np.uint8), name


def paste(
    canvas: np.ndarray,
    instance: np.ndarray,
    piece: Cut,
    left: int,
    top: int,
    number: int,
) -> int:
    """Blend a sprite into canvas and instance map in place; return the number of its pixels in the picture."""
    colour, alpha = piece
    height, width = alpha.shape[:2]
    size = canvas.shape[0]
    y0, y1, x0, x1 = max(top, 0), min(top + height, size), max(left, 0), min(left + width, size)
    if y0 >= y1 or x0 >= x1:
        return 0
    colour = colour[y0 - top : y1 - top, x0 - left : x1 - left]
    alpha = alpha[y0 - top : y1 - top, x0 - left : x1 - left]
    part = canvas[y0:y1, x0:x1]
    canvas[y0:y1, x0:x1] = (part * (255 - alpha) + colour + 127) // 255
    solid = alpha[:, :, 0] > 127
    instance[y0:y1, x0:x1][solid] = number
    return int(solid.sum())


def _relation(a: tuple[float, float], b: tuple[float, float], size: int) -> str:
    """How object a stands to b, from their (x, y) base points."""
    dx, dy = a[0] - b[0], a[1] - b[1]
    if abs(dx) < 0.18 * size and abs(dy) > 0.06 * size:
        return "in front of" if dy > 0 else "behind"
    return "left of" if dx < 0 else "right of"


@formatted(1)
class Scenes:
    """Composed scenes: image, mask, boxes with labels and, on request, a caption."""

    labels = None

    def __init__(
        self,
        name: str,
        family: str,
        cutouts: CutOuts,
        seed: int,
        size: int,
        length: int,
        crowd: bool = False,
        hidden: bool = False,
    ):
        if size < 16 or length < 1:
            raise UserError(f"{name}: size {size}, length {length}; give size >= 16, length >= 1")
        if family not in FAMILIES:
            raise UserError(f"{name}/family: {family!r}; give one of {', '.join(FAMILIES)}")
        if not len(cutouts):
            raise UserError(f"{name}: no cut-outs; choose others")
        if family != "pairs" and len(cutouts.groups) > MOST_GROUPS:
            raise UserError(
                f"{name}/classes: {len(cutouts.groups)}; a mask holds at most {MOST_GROUPS}"
            )
        self.name, self.family, self.cutouts = name, family, cutouts
        self.seed, self.size, self.length, self.crowd = seed, size, length, crowd
        self.hidden = hidden
        groups = ("background", *cutouts.groups)
        self.classes: tuple[str, ...] = () if family == "pairs" else groups
        self.keys = [f"{name}/{seed}/{size}/{i}" for i in range(length)]

    def __len__(self) -> int:
        return self.length

    def fingerprint(self) -> str:
        """A digest of the settings, the cut-outs and the format number of the composition."""
        chosen = self.cutouts.selection
        settings = (self.name, self.family, chosen, self.seed, self.size, self.length)
        files = self.cutouts.fingerprint()
        own = ("hidden",) if self.hidden else ()
        return fingerprints.combine(*settings, self.crowd, files, format_of(type(self)), *own)

    def _layout(self, rng: np.random.Generator, count: int) -> list[tuple[int, int, int, int]]:
        """(sprite, height, centre x, base y) of every object, far ones first."""
        size = self.size
        chosen = rng.integers(0, len(self.cutouts), count)
        if self.crowd:
            side = int(np.ceil(np.sqrt(count)))
            cells = rng.permutation(side * side)[:count]
            x = (cells % side + rng.uniform(0.25, 0.75, count)) * size / side
            y = (cells // side + rng.uniform(0.45, 0.95, count)) * size / side
            height = np.rint(size * (0.07 + 0.09 * y / size)).astype(int)
        else:
            x = rng.uniform(0.1, 0.9, count) * size
            y = rng.uniform(0.35, 1.02, count) * size
            steps = np.rint((0.2 + 0.32 * y / size + rng.uniform(-0.06, 0.06, count)) * 16)
            height = np.maximum(steps * size / 16, 6).astype(int)
        order = np.argsort(y, kind="stable")
        return [(int(chosen[k]), int(height[k]), int(x[k]), int(y[k])) for k in order]

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < self.length:
            raise IndexError(f"{self.name}: {i} is outside 0..{self.length - 1}")
        rng = np.random.Generator(np.random.PCG64([self.seed, i, int(self.crowd)]))
        size = self.size
        canvas, ground = textured(rng, size)
        instance = np.zeros((size, size), np.uint8)
        count = int(rng.integers(10, 41)) if self.crowd else int(rng.integers(2, 6))
        layout, own = [], []
        for sprite, height, x, y in self._layout(rng, count):
            piece = self.cutouts.cut(sprite, height)
            if piece is None:
                continue
            layout.append((sprite, height, x, y))
            top, left = y - piece[1].shape[0], x - piece[1].shape[1] // 2
            own.append(paste(canvas, instance, piece, left, top, len(layout)))
        sample: dict[str, Any] = {"image": canvas, "key": self.keys[i]}
        seen = np.bincount(instance.reshape(-1), minlength=len(layout) + 1)[1:]
        shown = [n for n in range(len(layout)) if seen[n] >= max(6, 0.2 * own[n])]
        if self.family == "pairs":
            sample["texts"] = self._caption(layout, shown, ground)
            return sample
        group = self.cutouts.group[[sprite for sprite, *_ in layout]]
        sample["mask"] = np.concatenate([[0], group + 1]).astype(np.uint8)[instance]
        barely = (
            [n for n in range(len(layout)) if seen[n] and n not in shown] if self.hidden else []
        )
        sample["boxes"] = extents(instance, shown + barely)
        sample["box_labels"] = (group[shown + barely] + 1).astype(np.int32)
        if self.hidden:
            sample["box_ignore"] = np.arange(len(shown + barely)) >= len(shown)
        return sample

    def _caption(
        self, layout: list[tuple[int, int, int, int]], shown: list[int], ground: str
    ) -> list[str]:
        """Caption first, then the list of the objects, then each object's name."""
        names = self.cutouts.names
        near = sorted(shown, key=lambda n: -layout[n][3])
        labels = [names[layout[n][0]] for n in near]
        if not labels:
            return [f"nothing {ground}"]
        texts = [" and ".join(labels) + f" {ground}", *labels]
        if len(near) > 1:
            (_, _, xa, ya), (_, _, xb, yb) = layout[near[0]], layout[near[1]]
            relation = _relation((xa, ya), (xb, yb), self.size)
            texts.insert(0, f"{labels[0]} {relation} {labels[1]} {ground}")
        return texts


class BoxesOf:
    """The boxes of a source of masks and boxes, without the first `skip` classes, which have no boxes."""

    family, labels = "detection", None

    def __init__(self, source: Any, name: str, skip: int = 1):
        self.source, self.name, self.skip = source, name, skip
        self.cutouts = getattr(source, "cutouts", None)
        self.classes: tuple[str, ...] = tuple(source.classes[skip:])
        self.keys: Sequence[str] = source.keys

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        sample = self.source[i]
        out = {name: sample[name] for name in ("image", "key", "boxes", "box_ignore")}
        return out | {"box_labels": sample["box_labels"] - np.int32(self.skip)}

    def class_sets(self) -> ClassSets | None:
        """Those of the source inside, if it knows them without reading."""
        every = known_class_sets(self.source)
        if every is None:
            return None
        return [tuple(c - self.skip for c in one if c >= self.skip) for one in every]

    def objects(self, i: int) -> dict[str, np.ndarray]:
        """What an evaluator needs: boxes, labels and ignore."""
        sample = self[i]
        fields = {"boxes": "boxes", "labels": "box_labels", "ignore": "box_ignore"}
        return {name: sample[field] for name, field in fields.items()}

    def fingerprint(self) -> str:
        """A digest of the source's, the name and the classes."""
        return fingerprints.combine(self.name, self.classes, self.source.fingerprint())


def extents(instance: np.ndarray, shown: list[int]) -> np.ndarray:
    """Visible extents float32 [N, 4], x1 y1 x2 y2, of the objects numbered shown + 1."""
    boxes = np.zeros((len(shown), 4), np.float32)
    for k, n in enumerate(shown):
        mine = instance == n + 1
        y, x = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
        boxes[k] = x[0], y[0], x[-1] + 1, y[-1] + 1
    return boxes
