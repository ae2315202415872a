"""The table of task families: those that ship, and those that a config adds by their dotted names.

A process knows the families that it was told of. Whoever starts another process tells it `outside()`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from intern_jax.core import config
from intern_jax.core.config import UserError
from intern_jax.core.schema import wrong
from intern_jax.families import fields
from intern_jax.families.family import Family

SHIPPED = (
    Family(
        name="classification",
        short="CLS",
        answer="label",
        fields={"label": fields.check_label},
        targets=("label",),
        transform="intern_jax.data.make.views:classification",
        metrics=("top1", "mean_per_class"),
        classes=True,
        task="intern_jax.tasks.classification:TASK",
        title="an image classifier",
    ),
    Family(
        name="detection",
        short="DET",
        answer="boxes",
        branch="dense",
        fields={
            "boxes": fields.check_boxes,
            "box_labels": fields.check_box_labels,
            "box_ignore": fields.check_box_ignore,
            "box_crowd": fields.check_box_crowd,
            "box_masks": fields.check_box_masks,
        },
        targets=("boxes", "box_labels", "box_valid", "box_ignore"),
        beside=("extent",),
        transform="intern_jax.data.make.boxes:boxes",
        metrics=("voc_ap", "wider_ap", "miss_rate", "coco_ap", "crowd_miss_rate"),
        classes=True,
        task="intern_jax.tasks.detection:TASK",
        title="an object detector",
    ),
    Family(
        name="segmentation",
        short="SEG",
        answer="mask",
        branch="dense",
        fields={"mask": fields.check_mask},
        targets=("mask",),
        transform="intern_jax.data.make.dense:dense",
        metrics=("miou",),
        classes=True,
        task="intern_jax.tasks.segmentation:TASK",
        title="a semantic segmentation model",
    ),
    Family(
        name="depth",
        short="DEP",
        answer="map",
        branch="dense",
        fields={"depth": fields.check_depth, "depth_valid": fields.check_depth_valid},
        targets=("depth", "depth_valid"),
        transform="intern_jax.data.make.dense:dense",
        metrics=("rmse", "image_rmse"),
        task="intern_jax.tasks.depth:TASK",
        title="a monocular depth model",
    ),
    Family(
        name="pairs",
        short="PAIR",
        answer="vector",
        transform="intern_jax.data.make.pairs:PairViews",
        title="an image-text model",
    ),
)

_families = {family.name: family for family in SHIPPED}
_outside: dict[str, str] = {}  # dotted names by family


def known() -> tuple[Family, ...]:
    """All families of this process, those that ship first."""
    return tuple(_families.values())


def names() -> tuple[str, ...]:
    """Their names."""
    return tuple(_families)


def find(name: str, where: str = "family") -> Family:
    """The family of that name, or a UserError that begins with `where` and lists those that are known."""
    if name not in _families:
        raise UserError(
            f"{where}: no family {name!r}; {config.did_you_mean(name, names())}; a config adds one "
            "of its own by families = ('package.module:FAMILY',)"
        )
    return _families[name]


def add(dotted: str | Iterable[str]) -> None:
    """Make families known by the dotted names of their records; a name that is taken is refused."""
    for name in [dotted] if isinstance(dotted, str) else dotted:
        family = config.resolve(name)
        if not isinstance(family, Family):
            kind = type(family).__name__
            raise UserError(f"{name} is a {kind}; name an intern_jax.families.Family")
        here = _families.get(family.name)
        if here is not None and here != family:
            raise UserError(f"{name} is called {family.name!r}, as another family is; rename it")
        _check_fields(family, name)
        _families[family.name] = family
        _outside[family.name] = name


def add_of_config(given: Mapping[str, Any]) -> None:
    """Make the families of a config's field `families` known; a mistake is one of that field."""
    for position, name in enumerate(given.get("families") or ()):
        try:
            add(str(name))
        except UserError as error:
            raise wrong(str(error), "families", position) from None


def _check_fields(family: Family, dotted: str) -> None:
    for field, check in family.fields.items():
        for other in _families.values():
            if other.name != family.name and other.fields.get(field, check) != check:
                raise UserError(
                    f"{dotted} has a field {field!r}, as {other.name} has with another "
                    "check; rename it"
                )


def outside() -> tuple[str, ...]:
    """Dotted names of the families that were added: what another process is to `add`."""
    return tuple(_outside.values())
