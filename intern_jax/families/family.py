"""The record of one task family."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

# Checks one field of a sample: (sample, where, number of classes or None); raises UserError.
Check = Callable[[Mapping[str, Any], str, int | None], None]

# What a model of the family gives per picture, and so how a report draws it.
ANSWERS = {
    "label": "one class",
    "number": "one number",
    "mask": "a class per pixel",
    "map": "a number per pixel",
    "boxes": "boxes with classes and scores",
    "vector": "an embedding",
}
# The outputs of a backbone that a family's head reads (models/backbone.py), and the BatchNorm set that makes them.
BRANCHES = {"cls": ("pooled",), "dense": ("layer1", "layer2", "layer3", "layer4")}


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of tasks that have one kind of label and one kind of answer.

    name       as sources, groups, rows, records and model folders write it
    short      its name in a wide table, such as "CLS"
    answer     one of ANSWERS
    branch     one of BRANCHES: the backbone's outputs that it reads, and a generalist's branch
    fields     {field of a sample: its check}: what the sample schema takes beside image, views, texts
    targets    fields of a row that loss and score read, as `transform` makes them
    beside     other fields of a row that its head reads, such as where a picture ends on its canvas
    transform  dotted name of its usual transform: (sample, rng, *, size, train, flip) -> row
    metrics    names of its metrics (metrics/table.py), the usual one first; or dotted names of others
    classes    whether its answers are classes that have names
    task       dotted name of its Task (tasks/task.py); "" where no model of it is trained here
    title      what a model of it is called, such as "an image classifier"
    """

    name: str
    short: str
    answer: str
    branch: str = "cls"
    fields: Mapping[str, Check] = dataclasses.field(default_factory=dict)
    targets: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    transform: str = ""
    metrics: tuple[str, ...] = ()
    classes: bool = False
    task: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        # A group is called NAME_SUFFIX, and the joint kinds of groups are called as the branches.
        if not (self.name.isidentifier() and self.name.isalnum()) or self.name in BRANCHES:
            raise ValueError(
                f"family {self.name!r}: a name has letters and digits only, and is none of "
                f"{', '.join(BRANCHES)}"
            )
        if self.answer not in ANSWERS:
            raise ValueError(
                f"family {self.name}: answer {self.answer!r}; known: {', '.join(ANSWERS)}"
            )
        if self.branch not in BRANCHES:
            raise ValueError(
                f"family {self.name}: branch {self.branch!r}; known: {', '.join(BRANCHES)}"
            )

    def view(self, size: int, train: bool, flip: bool) -> dict[str, Any]:
        """The spec of its usual transform to pictures of `size` pixels, augmented where `train`."""
        return {"fn": self.transform, "size": size, "train": train, "flip": flip}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The backbone's outputs that its head reads."""
        return BRANCHES[self.branch]
