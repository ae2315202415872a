"""A transform of one's own: from a sample to a row of a batch, arrays of fixed shape."""

import numpy as np

from intern_jax.core.config import formatted
from intern_jax.data.make.views import classification


# Raise the number when the same arguments give other rows: stages that saw the old ones are then trained anew.
@formatted(1)
def with_holes(
    sample: dict, rng: np.random.Generator, *, size: int, holes: int = 2, side: int = 8
) -> dict[str, np.ndarray]:
    """The package's view of a picture, grey squares cut out of it (Cutout, arXiv 1708.04552).

    All that is random comes from `rng`, which is the row's own: a batch can be made again at any time.
    """
    row = classification(sample, rng, size=size)
    image = row["image"].copy()
    for top, left in rng.integers(0, size - side + 1, (holes, 2)):
        image[top : top + side, left : left + side] = 128
    return row | {"image": image}
