"""How a model reads pictures: from their pixels to uint8 RGB [S,S,3], with mean and deviation.

Legend: H, W height and width of a picture, S side of the canvas that a model reads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from intern_jax.core.config import UserError, did_you_mean
from intern_jax.data.make import boxes
from intern_jax.data.make.image_ops import GREY
from intern_jax.data.read.lending import image_of
from intern_jax.ops.images import MEAN, STD

RESIZE = {
    "squash": "the whole picture is resized to a square",
    "short": "the short side is resized, the ratio of the sides stays",
    "fit": "the whole picture lies at the square's top left, the ratio of its sides stays; the rest is mean colour",
}
INTERPOLATION = {
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
}
MAX_CANVAS = 4096
MIN_CROP = 0.01
# A resized picture with more pixels is never made whole. It is a narrow strip, most of which is cut away.
MAX_PIXELS = 2**26


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """The way from a picture to the input of a network, as plain data. Making one checks it (UserError).

    canvas         side S in pixels of the square that the network reads
    resize         one of RESIZE
    crop           share of the resized short side that the central square keeps, as crop_pct in timm. The picture is
                   resized to floor(S / crop) pixels, and the square [S,S] in its middle is cut out. 1 with "fit".
    interpolation  one of INTERPOLATION, antialiased, as in Pillow; "fit" has "bilinear" alone
    mean, std      mean and deviation per channel of pixel values in [0, 1], for the normalisation
    """

    canvas: int
    resize: str = "squash"
    crop: float = 1.0
    interpolation: str = "bilinear"
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD

    def __post_init__(self) -> None:
        if not (is_number(self.canvas) and self.canvas == int(self.canvas)):
            raise UserError(f"canvas: {self.canvas!r:.80} is not a number of pixels, such as 224")
        if not 1 <= self.canvas <= MAX_CANVAS:
            raise UserError(f"canvas: {self.canvas} is outside 1 ... {MAX_CANVAS} pixels")
        for field, known in (("resize", RESIZE), ("interpolation", INTERPOLATION)):
            value = getattr(self, field)
            if not isinstance(value, str) or value not in known:
                raise UserError(
                    f"{field}: no {value!r:.80}; {did_you_mean(str(value), list(known))}"
                )
        if not (is_number(self.crop) and MIN_CROP <= self.crop <= 1):
            raise UserError(
                f"crop: {self.crop!r:.80} is not a share in [{MIN_CROP}, 1], such as 0.875"
            )
        if self.resize == "fit" and (self.crop != 1 or self.interpolation != "bilinear"):
            raise UserError(
                "resize: 'fit' goes with crop 1 and interpolation 'bilinear'; give these"
            )
        for field in ("mean", "std"):
            values = getattr(self, field)
            values = values.tolist() if isinstance(values, np.ndarray) else values
            three = isinstance(values, list | tuple) and len(values) == 3
            if not three or not all(map(is_number, values)):
                raise UserError(
                    f"{field}: {values!r:.80} is not three numbers, such as 0.5,0.5,0.5"
                )
            object.__setattr__(self, field, tuple(map(float, values)))
        if min(self.std) <= 0:
            raise UserError(f"std: {list(self.std)} must be above zero")
        object.__setattr__(self, "canvas", int(self.canvas))
        object.__setattr__(self, "crop", float(self.crop))

    @classmethod
    def of(cls, plain: Any) -> Preprocess:
        """From a dict of all fields, such as one from JSON; UserError for a missing or unknown field."""
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(plain, Mapping):
            raise UserError(f"must be an object with {', '.join(known)}, is {plain!r:.80}")
        for name in known:
            if name not in plain:
                raise UserError(f"{name}: missing; save the model anew")
        for name in plain:
            if name not in known:
                raise UserError(f"{name}: unknown field (known: {', '.join(known)}); remove it")
        return cls(**plain)

    @property
    def plain(self) -> dict[str, Any]:
        """The fields as JSON values."""
        fields = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}

    @property
    def whole(self) -> Preprocess:
        """The same with all of the picture over all of the canvas, as an answer per pixel needs it."""
        return dataclasses.replace(self, resize="squash", crop=1.0)

    @property
    def shows_all(self) -> bool:
        """Whether all of a picture is on the canvas."""
        return self.resize in ("squash", "fit") and self.crop == 1

    def extent(self, sides: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the canvas's area, at its top left, that shows a picture of `sides` (height, width)."""
        square = self.canvas, self.canvas
        return boxes.fitted(sides, square) if self.resize == "fit" else square

    def view(self, image: np.ndarray) -> np.ndarray:
        """The canvas uint8 RGB [S,S,3] of a picture uint8 [H,W,3], or [H,W,4] with transparency, which lies over grey.

        With "short" it equals torchvision's Resize and CenterCrop of a PIL image, bit for bit: converted networks need
        it. They round to whole pixels. GV-B's centre_crop (data/make/views.py) does not: it is up to half a pixel away.
        With "fit" it equals the transform of pictures with boxes (data/make/boxes.py), which detectors learn from.
        """
        if self.resize == "fit":
            return boxes.whole(image, self.canvas)["image"]
        im, size, resample = _opaque(image), self.canvas, INTERPOLATION[self.interpolation]
        width, height = self._resized(im.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        if width * height <= MAX_PIXELS:
            if im.size != (width, height):
                im = im.resize((width, height), resample)
            return np.asarray(im.crop((left, top, left + size, top + size)))
        x, y = im.width / width, im.height / height
        right, bottom = min((left + size) * x, im.width), min((top + size) * y, im.height)
        return np.asarray(im.resize((size, size), resample, box=(left * x, top * y, right, bottom)))

    def _resized(self, sides: tuple[int, int]) -> tuple[int, int]:
        """(width, height) to which a picture of these sides is resized."""
        # A share such as 224 / 232 gives 232 back, whatever its rounding.
        side = math.floor(self.canvas / self.crop + 1e-6)
        if self.resize == "squash":
            return side, side
        width, height = (side if s == min(sides) else side * s // min(sides) for s in sides)
        return width, height

    def __str__(self) -> str:
        rules = {"squash": "whole picture", "short": "short side", "fit": "long side"}
        rule = rules[self.resize]
        side = math.floor(self.canvas / self.crop + 1e-6)
        cut = "" if self.shows_all else f", central {self.canvas} x {self.canvas}"
        mean, std = (",".join(f"{value:.4g}" for value in row) for row in (self.mean, self.std))
        return f"{rule} to {side} pixels, {self.interpolation}{cut}; mean {mean}, std {std}"


def classification(
    sample: Mapping[str, Any], _rng: np.random.Generator | None = None, **settings: Any
) -> dict[str, Any]:
    """A data transform: image, a model's own view of a labelled picture, and label (int32). Nothing is random.

    `settings`: the fields of a Preprocess.
    """
    image = Preprocess(**settings).view(sample["image"])
    return {"image": image, "label": np.int32(sample["label"])}


def picture(
    sample: Mapping[str, Any], _rng: np.random.Generator | None = None, **settings: Any
) -> dict[str, Any]:
    """A data transform: image, a model's own view of a picture. `settings`: the fields of a Preprocess."""
    return {"image": Preprocess(**settings).view(sample["image"])}


def _opaque(image: np.ndarray) -> PIL.Image.Image:
    """The picture over grey. This comes before the resize, so that edges do not blend with hidden colours."""
    im = image_of(image)
    if image.shape[2] == 3:
        return im
    ground = PIL.Image.new("RGB", im.size, GREY)
    ground.paste(im, (0, 0), im)
    return ground


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, of Python or NumPy, and no bool. An integer beyond all floats is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
