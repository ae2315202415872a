"""The benchmark's rows as data: GV-B mini, on embedded images whose concepts, styles or models are unseen before.

Figures on these rows stand under the rows' own names; they are no figures on a published data set.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError

EMBEDDED = "intern_jax.data.embedded:load"


@dataclasses.dataclass(frozen=True)
class Row:
    """One data set of the benchmark: where its splits come from and how it is scored."""

    name: str
    family: str  # classification | segmentation | depth
    source: Mapping[str, Any]  # {"fn": ..., **arguments}; called with split="train" | "test"
    metric: str  # top1 | miou | rmse
    size: int  # side of the square canvas in pixels
    flip: bool = True

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is the better one."""
        return self.metric != "rmse"

    @property
    def task(self) -> str:
        """The BatchNorm set, and generalist branch, of the row's family."""
        return "cls" if self.family == "classification" else "dense"

    def load(self, split: str) -> Any:
        """The row's source of one split."""
        return config_lib.bind(self.source)(split=split)


def _classification(name: str, size: int = 32, flip: bool = True) -> Row:
    source = {"fn": EMBEDDED, "name": name}
    return Row(name, "classification", source, "top1", size, flip)


MINI = (
    _classification("emoji_style"),
    _classification("emoji_style_group"),
    _classification("emoji_concept"),
    _classification("clipart_leaf"),
    _classification("fashion"),
    _classification("furniture"),
    Row("sprites_seg", "segmentation", {"fn": EMBEDDED, "name": "sprites_seg"}, "miou", 64),
    Row("rooms_seg", "segmentation", {"fn": EMBEDDED, "name": "rooms_seg"}, "miou", 64),
    Row("rooms_depth", "depth", {"fn": EMBEDDED, "name": "rooms_depth"}, "rmse", 64),
)

ROWS = {row.name: row for row in MINI}


def find(name: str) -> Row:
    """The row of that name, or a UserError that lists the names."""
    if name not in ROWS:
        raise UserError(f"config.benchmark.rows: no row '{name}'; known: {', '.join(sorted(ROWS))}")
    return ROWS[name]
