"""What a task family is to a network: its head, loss, answer and picture.

A family's file in this room has its Task, an object without state. `find` gives it by the family's name; a family from
outside brings its own. Legend: N rows, D features, H, W size in pixels, K classes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from intern_jax import families
from intern_jax.core import config
from intern_jax.core.averages import Average
from intern_jax.core.config import UserError
from intern_jax.data.make.dense import bilinear
from intern_jax.families import Family
from intern_jax.models.layers.basic import Dtype

Features = Mapping[str, jax.Array]  # a backbone's outputs by name
Rows = Mapping[str, Any]  # rows of a batch by field
Loss = Callable[..., Average]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a decoder is trained: a loss in place of the family's, weights of its terms, and on what.

    on_pictures   on pictures that are augmented anew at every step; else on outputs that the backbone made once
    """

    loss: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    on_pictures: bool = False


class Task:
    """What one family does. Subclasses set `name` and override.

    They need `loss`, `score`, `picture`, and `answer` (or `decide`, of pixels); without decoders `output` too.

    name      the family's
    loss      the usual loss as a spec {"fn": dotted name}: (output, target, valid or None) -> Average
    decoders  heads by name where there are several, the usual one first: Flax modules whose first field is
              out_channels, called with (maps layer1..layer4, size, train)
    recipes   what a decoder is trained by where that is not `loss` alone, by its name: a Recipe
    """

    name: str
    predict_batch: int = 128  # pictures that are scored at once
    loss: Mapping[str, Any]
    decoders: Mapping[str, type[nn.Module]] = {}
    recipes: Mapping[str, "Recipe"] = {}

    @property
    def family(self) -> Family:
        """The family's record."""
        return families.find(self.name)

    # --- head -------------------------------------------------------------------------------------

    def channels(self, num_classes: int) -> int:
        """How many numbers its output has per picture or pixel."""
        return num_classes

    def output(
        self,
        features: Features,
        size: Sequence[int],
        num_classes: int,
        train: bool,
        head: str = "",
        settings: Mapping[str, Any] | None = None,
        rows: Rows | None = None,
    ) -> Any:
        """The head's output for pictures of `size` (H, W); it makes its layers in the module that calls it.

        `head`: one of `decoders`, "" for the usual one, with its fields in `settings`. `rows`: the batch's rows, for a
        head whose training depends on their targets.
        """
        self.check_head(head, settings or {})
        decoder = self.decoders[head or self.usual]
        made = decoder(self.channels(num_classes), **(settings or {}), name="decoder")
        return made(features, size, train=train)

    @property
    def usual(self) -> str:
        """The name of the usual decoder; "" where the family has one head alone."""
        return next(iter(self.decoders), "")

    def check_head(self, head: str, settings: Mapping[str, Any]) -> None:
        """Refuse a decoder, or a setting of it, that does not exist."""
        if head and head not in self.decoders:
            near = config.did_you_mean(head, list(self.decoders))
            raise UserError(f"head.name: {self.name} has no decoder {head!r}; {near}")
        known: list[str] = []
        if self.decoders:
            decoder = self.decoders[head or self.usual]
            hidden = ("out_channels", "parent", "name")
            known = [f.name for f in dataclasses.fields(decoder) if f.name not in hidden]
        for name in settings:
            if name not in known:
                near = config.did_you_mean(name, known)
                raise UserError(
                    f"head.settings.{name}: {head or self.usual or self.name} has none; {near}"
                )

    def in_dtype(self, head: str, settings: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
        """A decoder's settings with the compute dtype, where it has one and they do not say it.

        Classifiers have none: one matrix product costs little, and its logits stay as precise as the features.
        """
        decoder = self.decoders.get(head or self.usual)
        fields = dataclasses.fields(decoder) if decoder else ()
        takes = dtype is not None and any(field.name == "dtype" for field in fields)
        return {"dtype": dtype, **settings} if takes else dict(settings)

    def suited(self, head: str, settings: Mapping[str, Any], source: Any) -> dict[str, Any]:
        """A decoder's settings with what a data set says of itself, where the settings do not say it."""
        return dict(settings)

    def readout(self, settings: Mapping[str, Any]) -> str:
        """The readout (models/heads/readout.py) that a head of these settings needs beside the outputs; "" for none."""
        return ""

    def recipe(self, head: str = "") -> Recipe:
        """How the head of that name is trained, "" for the usual one; with its loss."""
        found = self.recipes.get(head or self.usual, Recipe())
        return dataclasses.replace(found, loss=found.loss or self.loss)

    # --- training ---------------------------------------------------------------------------------

    def score(
        self, loss: Loss, out: jax.Array, rows: Rows, mine: jax.Array | None = None
    ) -> Average:
        """A loss of outputs [N,...] against the rows' targets; of the rows that are `mine`, bool [N]."""
        raise NotImplementedError

    def measures(
        self, out: jax.Array, rows: Rows, mine: jax.Array | None = None
    ) -> Mapping[str, Average]:
        """What is logged beside the loss, {name: Average}; `averages.described` says what each is."""
        return {}

    def imitation(self, out: Any, teacher: Any, rows: Rows, temperature: float) -> jax.Array | None:
        """How far an output [N,...] is from a teacher's for the same pictures, [N]; None if there is no such loss."""
        return None

    # --- scoring ----------------------------------------------------------------------------------

    def scored(self, out: Any) -> Any:
        """What scores and pictures need of an output, computed on the device; the output itself by default."""
        return out

    def finish(self, out: jax.Array) -> jax.Array:
        """What a saved model's head gives, from its output: computed on the device."""
        return out

    def prediction(self, out: np.ndarray) -> np.ndarray:
        """Outputs [N,...], as `scored` gives them, as the family's metrics take them."""
        return out

    def floor(self, rows: Rows, num_classes: int) -> np.ndarray | None:
        """What a head would give of every picture [...] that knew the targets of `rows` [N,...] and saw no picture.

        The best such guess is a floor for scores. None where the family has none.
        """
        return None

    def whole_picture(
        self, prediction: np.ndarray, sample: Mapping[str, Any], source: Any
    ) -> tuple[np.ndarray, Rows]:
        """A whole picture's prediction and targets, each with a leading axis of 1, as its data set scores it."""
        return prediction[None], {name: sample[name][None] for name in self.family.targets}

    # --- answers ----------------------------------------------------------------------------------

    def answer(self, row: np.ndarray, size: tuple[int, int], classes: Sequence[str]) -> Any:
        """What `predict` gives of one picture of `size` (H, W), from one row of `finish`.

        Of pixels: `decide` of the row's maps [h,w,C], resized to the picture.
        """
        return self.decide(bilinear(row, size))

    def decide(self, maps_HxWxC: np.ndarray) -> np.ndarray:
        """The answer per pixel [H,W] of a picture's maps."""
        raise NotImplementedError

    def picture(
        self, out: np.ndarray, rows: Rows, classes: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """Arrays that the report draws beside the pictures (report/pictures.py), of `scored` outputs [N,...]."""
        raise NotImplementedError


def find(name: str) -> Task:
    """The task of a family's name; UserError for a family that no model here is trained for."""
    family = families.find(name)
    if not family.task:
        able = ", ".join(one.name for one in families.known() if one.task)
        raise UserError(f"family {name}: no model is trained for it here; there are: {able}")
    made = config.resolve(family.task)
    if not isinstance(made, Task):
        kind = type(made).__name__
        raise UserError(f"family {name}: {family.task} is a {kind}; name an object of a Task")
    if made.name != name:
        raise UserError(
            f"family {name}: {family.task} is the task of {made.name!r}; correct its name"
        )
    return made


class TaskHead(nn.Module):
    """The head of one task as a module: what adaptation trains and a model folder holds.

    `dtype` is the compute dtype of its decoder (None: at least float32).
    """

    family: str
    num_classes: int
    head: str = ""
    settings: Mapping[str, Any] | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        features: Features,
        size: Sequence[int],
        train: bool = False,
        rows: Rows | None = None,
    ) -> Any:
        """`features`: "pooled" [N,D], or the maps layer1..layer4; `size`: (H, W) of the pictures; `rows`: targets."""
        task = find(self.family)
        settings = task.in_dtype(self.head, self.settings or {}, self.dtype)
        return task.output(features, size, self.num_classes, train, self.head, settings, rows)
