"""Pictures with boxes: what a detector found, what it missed, and what was not there.

Legend: N pictures, M places for objects, D for detections, K classes; G objects and P detections of all pictures.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from intern_jax.metrics import detection, miss_rate
from intern_jax.metrics.detection import Detections, Objects
from intern_jax.report.style import INK, MISSED, RIGHT, WRONG

OF_OBJECTS = ("boxes", "box_labels", "box_valid", "box_ignore")
MIN_IOU = 0.5
IGNORED = "#c3cad1"
CELL, FONT, LETTER = (
    166.0,
    6.0,
    3.4,
)  # points: side of a cell, size of texts, mean width of a letter
FALSE_TEXTS = 5  # per picture: false alarms of a weak detector are many
LINE, THIN = 1.6, 0.8  # points
DASHES = (0, (3, 1.5))

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Matched:
    """What became of detections, the surest first, and of objects."""

    right: np.ndarray  # bool [P]: found an object that no surer one found
    passed: np.ndarray  # bool [P]: lies on an ignored object, so that it is neither right nor false
    missed: np.ndarray  # bool [G]: was to be found, and was not


def match(objects: Objects, ranked: Detections) -> Matched:
    """Give each detection, the surest first, the free object of its class that it overlaps most, by IoU .5 or more.

    One without such an object is passed over if half of it or more is on an ignored one of its class.
    """
    right = np.zeros(len(ranked.image), bool)
    passed, found = right.copy(), np.zeros(len(objects.image), bool)
    taken: set[int] = set()
    groups = (each.image * objects.num_classes + each.labels for each in (objects, ranked))
    for d, g in detection.pairs(*groups):
        overlap = detection.iou(ranked.boxes[d], objects.boxes[g])
        near = ~objects.ignore[g] & (overlap >= MIN_IOU)
        miss_rate.take_persons(d[near], g[near], overlap[near], right, taken)
        shared = detection.intersection(ranked.boxes[d], objects.boxes[g])
        on = objects.ignore[g] & (shared >= 0.5 * detection.box_area(ranked.boxes[d]))
        passed[d[on]] = True
    found[list(taken)] = True
    return Matched(right, passed & ~right, ~found & ~objects.ignore)


def as_many(arrays: Arrays) -> float:
    """The score from which on as many boxes are drawn as there are objects; a detector gives many of low score."""
    scores = np.sort(arrays["detections"][..., 4], axis=None)[::-1]
    count = min(max(int(arrays["box_valid"].sum()), 1), len(scores))
    return float(scores[count - 1])


def flat(arrays: Arrays, threshold: float) -> tuple[Objects, Detections]:
    """The objects of a picture file, and its detections with a score of at least the threshold, the surest first."""
    number = np.arange(len(arrays["boxes"]))
    ignore = arrays.get("box_ignore", np.zeros(arrays["box_valid"].shape, bool))
    found = arrays["detections"].astype(np.float64)
    there = {"image": number, "valid": arrays["box_valid"] | ignore, "ignore": ignore}
    there |= {"boxes": arrays["boxes"], "labels": arrays["box_labels"]}
    shown = (found[..., 4] > 0) & (found[..., 4] >= threshold)
    seen = {
        "image": number,
        "valid": shown,
        "boxes": found[..., :4],
        "scores": found[..., 4],
        "labels": found[..., 5].astype(np.int64),
    }
    objects = Objects(
        num_images=len(number), num_classes=len(arrays["classes"]), **detection.flatten([there])
    )
    return objects, detection.rank(Detections(**detection.flatten([seen])))


def draw(arrays: Arrays) -> Figure:
    """Each picture with its objects, and beside it with what was found, was not there and was missed."""
    threshold = float(arrays["threshold"]) if "threshold" in arrays else as_many(arrays)
    objects, found = flat(arrays, threshold)
    detection.check_together(objects, found)
    matched = match(objects, found)
    names = [str(name) for name in arrays["classes"]]
    figure, axes = _pairs(len(arrays["images"]))
    for i, image in enumerate(arrays["images"]):
        sides = arrays["extent"][i] if "extent" in arrays else image.shape[:2]
        height, width = (int(side) for side in sides)
        for cell in axes[i]:
            cell.imshow(image[:height, :width], interpolation="nearest")
        own, seen = (np.flatnonzero(each.image == i) for each in (objects, found))
        _truth(axes[i][0], objects, own, names)
        _found(axes[i][1], objects, found, matched, (own, seen), names)
    _legend(figure, objects, matched, threshold)
    return figure


def _pairs(count: int) -> tuple[Figure, np.ndarray]:
    """A figure and its cells [count, 2]; a line holds two pairs if there are several."""
    pairs = min(count, 2)
    lines = -(-count // pairs)
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(4.7 * pairs + 0.1, 2.35 * lines + 1.0), layout=layout)
    axes = figure.subplots(lines, 2 * pairs, squeeze=False)
    for position, cell in enumerate(axes[0]):
        cell.set_title(("truth", "found")[position % 2], fontsize=8.5)
    for cell in axes.ravel():
        cell.axis("off")
    return figure, axes.reshape(lines * pairs, 2)


def _truth(cell: Axes, objects: Objects, rows: np.ndarray, names: Sequence[str]) -> None:
    """The objects of a picture."""
    for row in rows:
        ignored = objects.ignore[row]
        _box(cell, objects.boxes[row], IGNORED if ignored else INK, THIN if ignored else LINE)
    texts = _Texts(cell)
    for row in rows[~objects.ignore[rows]]:
        texts.add(objects.boxes[row], _name(names, objects.labels[row]), INK)


def _found(
    cell: Axes,
    objects: Objects,
    found: Detections,
    matched: Matched,
    rows: tuple[np.ndarray, np.ndarray],
    names: Sequence[str],
) -> None:
    """What became of the objects and the detections of a picture: right ones lie on top, unsure false ones are pale."""
    own, seen = rows
    right, missed = seen[matched.right[seen]], own[matched.missed[own]]
    passed = seen[matched.passed[seen]]
    false = seen[~matched.right[seen] & ~matched.passed[seen]]
    for box in [*objects.boxes[own[objects.ignore[own]]], *found.boxes[passed]]:
        _box(cell, box, IGNORED, THIN)
    for row in false[::-1]:
        _box(cell, found.boxes[row], WRONG, 1.1, alpha=0.35 + 0.65 * min(found.scores[row], 1))
    for row in right[::-1]:
        _box(cell, found.boxes[row], RIGHT, LINE)
    for row in missed:
        _box(cell, objects.boxes[row], MISSED, LINE, DASHES)
    texts = _Texts(cell)
    for row in right:
        texts.add(found.boxes[row], _scored(names, found, row), RIGHT)
    for row in missed:
        texts.add(objects.boxes[row], _name(names, objects.labels[row]), MISSED)
    for row in false[:FALSE_TEXTS]:
        texts.add(found.boxes[row], _scored(names, found, row), WRONG)


def _box(
    cell: Axes,
    box: np.ndarray,
    color: str,
    width: float,
    style: str | tuple = "-",
    alpha: float = 1.0,
) -> None:
    x1, y1, x2, y2 = box - 0.5  # a drawn pixel reaches from half a pixel before its number
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, lw=width, ls=style)
    patch.set_alpha(alpha)
    patch.set_in_layout(False)
    patch.set_path_effects([withStroke(linewidth=width + 1.2, foreground="white", alpha=0.5)])
    cell.add_patch(patch)


class _Texts:
    """Writes beside boxes of one cell what finds room there; what would hide another text is left out."""

    def __init__(self, cell: Axes):
        self.cell = cell
        self.sides = np.array([cell.get_xlim()[1] + 0.5, cell.get_ylim()[0] + 0.5])
        self.pixel = CELL / self.sides.max()  # points
        self.placed: list[np.ndarray] = []

    def add(self, box: np.ndarray, text: str, color: str) -> None:
        """Write on the upper edge of a box, else on its lower one, outside it or inside."""
        if not text:
            return
        width, height = LETTER * len(text) + 2, 1.5 * FONT
        x1, y1, x2, y2 = box * self.pixel
        for x in (x1, x2 - width):
            x = float(np.clip(x, 0, max(self.sides[0] * self.pixel - width, 0)))
            for y in (y1 - height, y1, y2, y2 - height):
                place = np.array([x, y, x + width, y + height])
                if 0 <= y <= self.sides[1] * self.pixel - height and self._free(place):
                    self.placed.append(place)
                    self._write(text, (x, y), color)
                    return

    def _free(self, place: np.ndarray) -> bool:
        others = np.reshape(self.placed, (-1, 4))
        return not (detection.intersection(np.broadcast_to(place, others.shape), others) > 0).any()

    def _write(self, text: str, at: tuple[float, float], color: str) -> None:
        x, y = (value / self.pixel - 0.5 for value in at)
        written = self.cell.annotate(
            text,
            (x, y),
            (1, -1),
            textcoords="offset points",
            va="top",
            fontsize=FONT,
            color="white",
            bbox={"boxstyle": "square,pad=0.12", "fc": color, "ec": "none", "alpha": 0.9},
        )
        written.set_in_layout(False)


def _name(names: Sequence[str], label: int) -> str:
    """The name of a class, short; nothing where there is one class alone."""
    name = names[label].replace("_", " ") if len(names) > 1 else ""
    return textwrap.shorten(name, 16, placeholder="…")


def _scored(names: Sequence[str], found: Detections, row: int) -> str:
    """Class and score of a detection: "cup .87"."""
    score = f"{found.scores[row]:.2f}".removeprefix("0")
    return " ".join(filter(None, (_name(names, found.labels[row]), score)))


def _legend(figure: Figure, objects: Objects, matched: Matched, threshold: float) -> None:
    """The colours, below the count of what is drawn."""
    wanted, right = int((~objects.ignore).sum()), int(matched.right.sum())
    false = int((~matched.right & ~matched.passed).sum())
    alarms = "1 false alarm" if false == 1 else f"{false} false alarms"
    looks = {
        "found": {"color": RIGHT},
        "false alarm": {"color": WRONG},
        "missed": {"color": MISSED, "ls": DASHES},
    }
    if objects.ignore.any():
        looks["ignored"] = {"color": IGNORED, "lw": THIN}
    handles = [Line2D([], [], label=label, **look) for label, look in looks.items()]  # type: ignore[arg-type]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        fontsize=8,
        title=f"found {right} of {wanted}, {alarms}, scores ≥ {threshold:.2f}",
        title_fontsize=8.5,
    )
