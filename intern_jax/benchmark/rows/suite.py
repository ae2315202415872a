"""The benchmark's rows: GV-B's 26 data sets (gvb.py), GV-B mini's, on images that ship, and the wide world's (wide.py).

The mini rows' concepts, styles or models are unseen in the embedded pre-training data. Figures on them stand under
the rows' own names; they are no figures on a published data set.
"""

import os
from collections.abc import Sequence
from typing import Any

from intern_jax.benchmark.rows import gvb, wide
from intern_jax.benchmark.rows.row import Row
from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError

EMBEDDED = "intern_jax.data.embedded:load"


def _mini(name: str, family: str, metric: str, size: int) -> Row:
    return Row(name, family, {"fn": EMBEDDED, "name": name}, metric, size)


MINI = (
    _mini("emoji_style", "classification", "top1", 32),
    _mini("emoji_style_group", "classification", "top1", 32),
    _mini("emoji_concept", "classification", "top1", 32),
    _mini("clipart_leaf", "classification", "top1", 32),
    _mini("fashion", "classification", "top1", 32),
    _mini("furniture", "classification", "top1", 32),
    _mini("sprites_seg", "segmentation", "miou", 64),
    _mini("rooms_seg", "segmentation", "miou", 64),
    _mini("rooms_depth", "depth", "rmse", 64),
    _mini("sprites_det", "detection", "coco_ap", 64),
    _mini("rooms_det", "detection", "coco_ap", 64),
    _mini("crowd_det", "detection", "crowd_miss_rate", 128),
)
ROWS = {row.name: row for row in (*gvb.ROWS, *MINI, *wide.ROWS)}


def find(name: str, where: str = "config.rows") -> Row:
    """The row of that name, or of a dotted name package.module:ROW; UserError if there is none.

    `where` is the field or flag that names it.
    """
    if ":" in name:
        row = config_lib.resolve(name)
        if not isinstance(row, Row):
            kind = type(row).__name__
            raise UserError(f"{where}: {name} is a {kind}; name a Row (benchmark/rows/row.py)")
        return row
    if name not in ROWS:
        raise UserError(f"{where}: no row '{name}'; {config_lib.did_you_mean(name, sorted(ROWS))}")
    return ROWS[name]


def listing(names: Sequence[str], data: str | os.PathLike) -> str:
    """Every row with its facts, what is ready below the folder `data`, and the steps to what is not."""
    lines, missing = [], []
    for name in names:
        row = find(name)
        ready, found = _state(row, data)
        if not ready:
            steps = row.steps().replace("ROOT", os.fspath(data))
            missing.append(
                f"{row.name}: {found}\n{_indented(f'from {row.origin}')}\n{_indented(steps)}"
            )
        classes = str(row.num_classes or "-")
        facts = (row.name, row.family, row.metric, classes, row.sizes, row.licence, row.key)
        lines.append((*facts, found if ready else "not ready"))
    facts = ("row", "family", "metric", "classes", "train / test", "licence", "an example is")
    head = (*facts, f"below {data}")
    table = [head, *lines]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    rows = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in table]
    return "\n".join([*(row.rstrip() for row in rows), *(f"\n{text}" for text in missing)])


def _state(row: Row, data: Any) -> tuple[bool, str]:
    try:
        return True, "ready: " + " / ".join(str(len(row.load(s, data))) for s in ("train", "test"))
    except UserError as error:
        return False, str(error)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines())
