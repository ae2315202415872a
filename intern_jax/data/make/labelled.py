"""The transform of labelled pictures that lists what happens to a view, as pairs do.

    {"fn": "intern_jax.data.make.labelled:LabelledView", "size": 224,
     "view": ({"fn": "intern_jax.data.make.augment:random_resized_crop", "scale": (.08, 1.)}, ...)}

`classification` of views.py has one augmentation with settings instead, and is faster.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import UserError, checked_by, formatted
from intern_jax.data.make import augment, image_ops
from intern_jax.data.make.augment import IMAGENET, View
from intern_jax.data.make.pairs import bound
from intern_jax.data.make.views import needed, whole_view
from intern_jax.data.schema.sample import Sample


def check_arguments(**given: Any) -> None:
    """UserError for settings that LabelledView would refuse, without a sample."""
    LabelledView(**{"size": 1, **given})


@formatted(2)
@checked_by(check_arguments)
class LabelledView:
    """A labelled picture after a list of operations, as a row: image uint8 [size,size,3] and label (int32)."""

    def __init__(
        self,
        size: int,
        view: Sequence[Mapping[str, Any]] = IMAGENET,
        train: bool = True,
        scaled: bool = True,
    ):
        """`view` lists operations (augment.py, rand_augment.py), done in that order.

        Without `train` nothing is random: the whole picture, resized, over grey. `scaled`: if the first operation is a
        random crop, a large JPEG is decoded smaller in training, though no smaller than the view; False decodes it
        whole.
        """
        if size < 1:
            raise UserError(f"size: {size!r}; give the side of the view in pixels")
        self.size, self.train, self.scaled = size, train, scaled
        self.operations = bound(view, "view")

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """The row of a sample. Raises UserError for a sample without a label."""
        label = np.int32(needed(sample, "label"))
        return {"image": self._seen(sample["image"], rng), "label": label}

    def reduction(self, width: int, height: int, rng: np.random.Generator) -> int:
        """How many times smaller a JPEG may be decoded for the view that is drawn from this generator."""
        if not self.train or not self.scaled:
            return 1
        return augment.reduction(self.operations, (width, height), self.size, rng)

    def _seen(self, image: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        if not self.train:
            return whole_view(image, self.size)
        rng, seen = image_ops.drawing(rng), View.of(image, self.size)
        for operation in self.operations:
            seen = operation(seen, rng)
        return seen.pixels()
