"""Which furniture stands in rooms, under which class and split, and where it is placed."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from tools.embedded.common import by_hash
from tools.embedded.furniture import Model

CLASSES = (
    "wall",
    "floor",
    "ceiling",
    "chair",
    "sofa",
    "table",
    "bed",
    "cabinet",
    "lamp",
    "plant",
    "person",
    "appliance",
    "bathroom",
)
RULES = (  # class, name pattern, categories (None = any)
    ("chair", r"\b(chair|stool|seat)\b", None),
    ("sofa", r"\b(sofa|couch|armchair|futon couch|puff)\b", None),
    ("bed", r"\b(bed|crib|futon)\b", ("Bedroom",)),
    ("table", r"\b(table|desk)\b", ("Office", "Bedroom", "Living room", "Exterior", "Kitchen")),
    (
        "cabinet",
        r"\b(wardrobe|cupboard|bookcase|shelves|cabinet|dresser|chest|tv stand|vanity)\b",
        ("Office", "Bedroom", "Living room", "Kitchen", "Miscellaneous"),
    ),
    ("lamp", r"\b(lamp|light|lantern|lamppost)\b", ("Lights",)),
    (
        "plant",
        r"\b(plant|cactus|orchids|bamboo|yucca|tulips|lily|ficus|flowers|bonsai tree|bush|"
        r"christmas tree|spathiphyllum|cypress|palm tree|maple|pine|flower box|plant box)\b",
        ("Living room", "Exterior"),
    ),
    ("person", r"^(holding )?(female|male|boy|girl)$|^mannequin", ("Characters",)),
    (
        "appliance",
        r"\b(fridge|refrigerator|freezer|washing machine|dryer machine|stove|oven|cooker|"
        r"dishwasher|double oven|water cooler)\b",
        ("Kitchen", "Office"),
    ),
    (
        "bathroom",
        r"\b(toilets unit|washbasin|bidet|bath|bathtub|vanity|lavatory|shower stall|"
        r"island bath|corner bathtub)\b",
        ("Bathroom",),
    ),
)
SHARES = {"pool": 0.5, "train": 0.35, "test": 0.15}


def class_of(model: Model) -> str | None:
    """The class of a model that can stand on a floor, or None."""
    width, depth, height = model.size
    if model.fixed and model.category != "Bathroom":
        return None
    if max(model.size) < 0.4 or height > 2.4 or max(width, depth) > 2.6 or height < 0.25:
        return None
    name = model.name.lower()
    if "table tennis" in name or "lying" in name or "lamp artwork" in name:
        return None
    for label, pattern, categories in RULES:
        if re.search(pattern, name) and (categories is None or model.category in categories):
            return None if label == "chair" and model.category == "Bathroom" else label
    return None


def split_models(models: list[Model]) -> dict[str, dict[str, list[Model]]]:
    """split -> class -> models; by hash of the model, every class in every split."""
    out: dict[str, dict[str, list[Model]]] = {split: {} for split in SHARES}
    for label in CLASSES[3:]:
        mine = {m.key: m for m in models if class_of(m) == label}
        order = by_hash(mine, "room furniture")
        test = max(1, round(SHARES["test"] * len(order)))
        train = max(1, round(SHARES["train"] * len(order)))
        parts = {
            "test": order[:test],
            "train": order[test : test + train],
            "pool": order[test + train :],
        }
        for split, keys in parts.items():
            out[split][label] = [mine[k] for k in keys]
    return out


@dataclasses.dataclass(frozen=True)
class Placed:
    """A model on the floor: place, turn (radians), class index."""

    model: Model
    label: int
    x: float
    y: float
    turn: float

    @property
    def half(self) -> tuple[float, float]:
        """Half extent of the axis-aligned footprint."""
        c, s = abs(np.cos(self.turn)), abs(np.sin(self.turn))
        w, d = self.model.size[:2]
        return (w * c + d * s) / 2, (w * s + d * c) / 2

    def distance(self, x: float, y: float) -> float:
        """Distance of a point from the footprint's rectangle."""
        a, b = self.half
        return float(np.hypot(max(abs(x - self.x) - a, 0), max(abs(y - self.y) - b, 0)))


def furnish(
    rng: np.random.Generator,
    models: dict[str, list[Model]],
    room: tuple[float, float],
    parts: dict[str, list],
) -> list[Placed]:
    placed: list[Placed] = []
    labels = [c for c in CLASSES[3:] if any(m.key in parts for m in models[c])]
    for _ in range(int(rng.integers(4, 9))):
        label = str(rng.choice(labels))
        usable = [m for m in models[label] if m.key in parts]
        model = usable[int(rng.integers(len(usable)))]
        for _ in range(12):
            at_wall = rng.random() < 0.55
            side = int(rng.integers(4))
            turn = side * np.pi / 2 if at_wall else rng.uniform(0, 2 * np.pi)
            half = Placed(model, 0, 0, 0, turn).half
            reach = (room[0] / 2 - half[0] - 0.03, room[1] / 2 - half[1] - 0.03)
            if min(reach) <= 0:
                break
            x, y = rng.uniform(-reach[0], reach[0]), rng.uniform(-reach[1], reach[1])
            if at_wall:  # a model's back looks to +y when unturned
                x, y = ((x, reach[1]), (-reach[0], y), (x, -reach[1]), (reach[0], y))[side]
            piece = Placed(model, CLASSES.index(label), x, y, turn)
            if all(
                abs(x - o.x) > half[0] + o.half[0] + 0.05
                or abs(y - o.y) > half[1] + o.half[1] + 0.05
                for o in placed
            ):
                placed.append(piece)
                break
    return placed
