"""From a model's outputs on test images to a score with its standard error."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from intern_jax.adapt.head import in_pixels
from intern_jax.benchmark import boxes
from intern_jax.benchmark.rows.row import Row
from intern_jax.core.config import UserError
from intern_jax.data.schema.source import Source
from intern_jax.metrics import table
from intern_jax.tasks import task as tasks


def score(
    row: Row,
    out: np.ndarray,
    arrays: Mapping[str, np.ndarray],
    num_classes: int,
    source: Source | None = None,
) -> dict[str, Any]:
    """The summary (metrics/table.py) of a head's outputs [N,...] against the targets in `arrays`, by field.

    Boxes are scored in the pictures' own pixels, against the objects of `source`. Raises UserError for outputs that are
    not finite.
    """
    if not np.isfinite(out).all():
        raise UserError(f"{row.name}: the model's outputs are not finite; lower its learning rate")
    if row.task_family.answer == "boxes":
        assert source is not None
        found = in_pixels(out, arrays["picture"])
        return boxes.of_rows(row, source, enumerate(found))
    metric = table.find(row.metric, f"{row.name}.metric")
    prediction = tasks.find(row.family).prediction(out)
    return metric.summary(metric.of_images(prediction, arrays, num_classes))
