"""One row of the benchmark as data."""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from intern_jax import families
from intern_jax.core import config as config_lib
from intern_jax.families import Family
from intern_jax.metrics import table as metrics

GVB = "intern_jax.data.gvb:load"
ABOUT = 0.95  # of a size that is published as "about": the least that counts as whole


@dataclasses.dataclass(frozen=True)
class Row:
    """One data set: where its splits come from, how its pictures are seen and how it is scored."""

    name: str
    family: str  # a family of families/
    source: Mapping[str, Any]  # {"fn": ..., **arguments}; called with split="train" | "test"
    metric: str  # of metrics/table.py, or the dotted name of another
    size: int  # side of the square canvas in pixels; of a dense row of GV-B the head's settings say it
    flip: bool = True
    view: str = (
        "whole"  # of a classification row: "whole" (squeezed) or "crop" (short side, centre)
    )
    title: str = ""  # its name in the published table
    num_classes: int = 0  # as published; what is on the disk counts
    sizes: str = ""  # published sizes, train / test
    key: str = ""  # what names an example on every machine
    licence: str = ""  # as far as its authors state one: read their terms before use
    origin: str = ""
    how: str = ""  # the steps to data that does not ship, one per line

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is the better one."""
        return metrics.find(self.metric, f"{self.name}.metric").higher_is_better

    @property
    def branch(self) -> str:
        """The BatchNorm set, and generalist branch, of the row's family."""
        return self.task_family.branch

    def backbone(self, rung: Mapping[str, Any]) -> Any:
        """What a rung of a ladder has for the row: under its family's name, else under its branch's."""
        return rung[self.family if self.family in rung else self.branch]

    @property
    def task_family(self) -> Family:
        """The record of the row's family."""
        return families.find(self.family, f"{self.name}.family")

    @property
    def whole(self) -> tuple[int | None, int | None]:
        """The least numbers of training and test images with which its splits are whole; None where none is published.

        `sizes` may name several for a split: "24,231 or 47,584", "697 (652 with truth)".
        """
        share = ABOUT if "about" in self.sizes else 1.0
        train, _, test = self.sizes.partition("/")
        return _least(train, share), _least(test, share)

    @property
    def published(self) -> bool:
        """Whether it is one of GV-B's own, whose data a user has to get."""
        return self.source["fn"] == GVB

    def load(self, split: str, data: str | os.PathLike | None = None) -> Any:
        """The source of one split; `data` is the folder of GV-B's data sets."""
        where = {"root": os.fspath(data or ".")} if self.published else {}
        return config_lib.bind(self.source)(split=split, **where)

    def steps(self) -> str:
        """How to get the data."""
        if self.how:
            return self.how
        if not self.published:
            own = [str(self.source[split]) for split in ("train", "test") if split in self.source]
            return f"put it into {' and '.join(own)}" if own else "ships with the package"
        from intern_jax.data import gvb

        return gvb.steps(self.source["name"])

    def transform(self) -> dict[str, Any]:
        """The spec of the data transform for frozen features and for scoring."""
        if self.view == "crop":
            return {"fn": "intern_jax.data.make.views:centre_crop", "size": self.size}
        return self.task_family.view(self.size, train=False, flip=self.flip)


def _least(sizes: str, share: float) -> int | None:
    """The least of the sizes that a text gives, times a share; None where it gives none."""
    found = re.findall(r"(?:^|or |about |\()(\d[\d,]*)", sizes.strip())
    return int(share * min(int(size.replace(",", "")) for size in found)) if found else None
