"""The one sample schema: what every source yields and every transform reads.

A sample is a dict of NumPy values; a field that a data set lacks is absent, never None. Beside the fields of all
samples it has those of task families (families/): a family that is added brings its own. The shipped ones:

| field | value |
|---|---|
| image | uint8 [H,W,3], or RGBA [H,W,4] where the picture has a transparent ground |
| views | list of uint8 pictures (as image): other pictures of the same concept |
| texts | list of non-empty str: the label or caption first, then tags or other captions |
| label | int in [0, number of classes) |
| boxes | float32 [N,4]: x1, y1, x2, y2 in pixels, inside the image, x1 < x2 and y1 < y2 |
| box_labels | int32 [N] in [0, number of classes) |
| box_ignore | bool [N]: neither taught nor ground, such as difficult or mostly hidden objects |
| box_crowd | bool [N]: a region of several objects; it is ignored, whatever box_ignore says |
| box_masks | uint8 [N,S,S]: 0 or 1 at the centres of a grid over each box, 255 = unknown |
| mask | uint8 [H,W] of class indices, 255 = ignore |
| depth | float32 [H,W] in metres |
| depth_valid | bool [H,W]: where depth was measured |
| source | int: position of the source in its group (the mixture adds it) |
| key | str: canonical name, the same on every machine |

Legend: H, W height and width in pixels, N boxes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from intern_jax import families
from intern_jax.core.config import UserError
from intern_jax.families.fields import describe

Sample = dict[str, Any]
# From a sample and its row's generator to the row: arrays of fixed shape.
Transform = Callable[[Sample, np.random.Generator], Mapping[str, np.ndarray]]

# What may stand beside the function that returns a grain.MapDataset, to make a source of it.
SOURCE_FIELDS = ("name", "family", "classes", "keys", "labels")


class CorruptSample(Exception):
    """A sample that cannot be read.

    `where` is the file or record, `cause` one of a few phrases to count by, `detail` what else is
    known.
    """

    def __init__(self, where: str, cause: str, detail: str = ""):
        super().__init__(f"{where}: {cause} ({detail})" if detail else f"{where}: {cause}")
        self.where, self.cause = where, cause


def check(sample: Sample, where: str, num_classes: int | None = None) -> Sample:
    """Return the sample unchanged, or raise a UserError with `where`, the field and the remedy.

    `num_classes` bounds label, box_labels and mask where it is known.
    """
    _, error = _mistake(sample, where, num_classes)
    if error is not None:
        raise error
    return sample


def fault_of(sample: Sample, where: str, num_classes: int | None = None) -> CorruptSample | None:
    """The damage of a sample that breaks the schema, such as "bad mask", or None. Its cause is the error of `check`."""
    field, error = _mistake(sample, where, num_classes)
    if error is None:
        return None
    fault = CorruptSample(where, f"bad {field}", str(error).removeprefix(f"{where}/"))
    fault.__cause__ = error
    return fault


def _mistake(sample: Sample, where: str, num_classes: int | None) -> tuple[str, UserError | None]:
    """The first field that breaks the schema, "fields" where one is unknown or missing, and the error."""
    field = "fields"
    try:
        _check_names(sample, where)
        field = "key"
        _check_key(sample["key"], f"{where}/key")
        for field, one in _checks().items():
            if field in sample:
                one(sample, f"{where}/{field}", num_classes)
    except UserError as error:
        return field, error
    return field, None


def check_labels(labels: np.ndarray, num_classes: int, where: str) -> None:
    """Raise a UserError for the first label outside [0, num_classes)."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise UserError(
            f"{where}/label: {labels[outside[0]]} at index {outside[0]} is outside"
            f" 0..{num_classes - 1}; number the classes from 0 without gaps"
        )


def ignored_of(sample: Mapping[str, Any]) -> np.ndarray:
    """bool [N]: boxes of a sample that neither have to be found nor count as found; those of crowds are among them."""
    ignored = np.zeros(len(sample["box_labels"]), bool)
    for name in ("box_ignore", "box_crowd"):
        ignored |= sample.get(name, False)
    return ignored


def one_line(error: Exception) -> str:
    """The first line of an error's message, at most 160 characters, to quote inside another."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _check_names(sample: Sample, where: str) -> None:
    known = fields()
    for name in sample:
        if name not in known:
            raise UserError(f"{where}/{name}: unknown field; known: {', '.join(known)}")
    for name in ("image", "key"):
        if name not in sample:
            raise UserError(f"{where}/{name}: missing; every sample has an image and a key")


def _check_key(key: Any, where: str) -> None:
    if not isinstance(key, str) or not key:
        raise UserError(f"{where}: {key!r}; give a non-empty str")
    _check_utf8(key, where)


def _check_picture(image: Any, where: str) -> None:
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3):
        raise UserError(f"{where}: {describe(image)}; give uint8 [H,W,3] or [H,W,4]")
    if image.shape[2] not in (3, 4) or 0 in image.shape:
        raise UserError(f"{where}: {describe(image)}; give uint8 [H,W,3] or [H,W,4]")


def _check_image(sample: Mapping[str, Any], where: str, _num_classes: int | None) -> None:
    _check_picture(sample["image"], where)


def _check_views(sample: Mapping[str, Any], where: str, _num_classes: int | None) -> None:
    if not isinstance(sample["views"], list):
        raise UserError(f"{where}: {describe(sample['views'])}; give a list of pictures")
    for i, view in enumerate(sample["views"]):
        _check_picture(view, f"{where}[{i}]")


def _check_texts(sample: Mapping[str, Any], where: str, _num_classes: int | None) -> None:
    texts = sample["texts"]
    if not isinstance(texts, list) or not texts:
        raise UserError(f"{where}: {describe(texts)}; give a list of at least one str")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}[{i}]: {text!r}; give a non-empty str")
        _check_utf8(text, f"{where}[{i}]")


def _check_utf8(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # Half an emoji, as JSON may have it: neither a tokenizer nor a file takes it.
        raise UserError(
            f"{ascii(where)[1:-1]}: {text!a:.80}; give text that UTF-8 can write"
        ) from None


_CHECKS: dict[str, families.family.Check] = {
    "image": _check_image,
    "views": _check_views,
    "texts": _check_texts,
}


def fields() -> tuple[str, ...]:
    """Names of the fields that a sample may have."""
    return (*_checks(), "source", "key")


def _checks() -> dict[str, families.family.Check]:
    """Every checked field; an image comes first, since others are compared with its size."""
    return _CHECKS | {
        name: one for family in families.known() for name, one in family.fields.items()
    }
