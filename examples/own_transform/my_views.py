"""Your own transform: it makes a row of a batch, arrays of fixed shape, from a sample."""

import numpy as np

from intern_jax.core.config import formatted
from intern_jax.data.make.views import classification


# Raise the number when the same arguments give other rows: stages that saw the old rows are then trained again.
@formatted(1)
def with_holes(
    sample: dict, rng: np.random.Generator, *, size: int, holes: int = 2, side: int = 8
) -> dict[str, np.ndarray]:
    """The package's view of a picture, with grey squares cut out of it (Cutout, arXiv 1708.04552).

    All randomness comes from `rng`, which belongs to the row, so a batch can be made again at any time.
    """
    row = classification(sample, rng, size=size)
    image = row["image"].copy()
    for top, left in rng.integers(0, size - side + 1, (holes, 2)):
        image[top : top + side, left : left + side] = 128
    return row | {"image": image}
