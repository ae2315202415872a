"""A student imitates teachers' features: the settings, and the module that gives a loss per teacher and picture.

What is imitated is the summary ("pooled") and chosen maps. A projector predicts a teacher's features from the
student's, and is thrown away after training. Legend: B batch, D features of a teacher.
"""

from collections.abc import Callable
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import pydantic

from intern_jax.core.schema import Settings, field, wrong
from intern_jax.losses import distillation
from intern_jax.models.backbone import LAYERS
from intern_jax.models.heads.projectors import Adapter, Generator, Ladder, Standardise, to_grid
from intern_jax.models.layers.basic import Dtype
from intern_jax.tasks.task import Features

POOLED = "pooled"


class Imitate(Settings):
    """What a student imitates of which teachers.

    teachers      {role: kinds of groups whose pictures the teacher sees}; an empty list is all of them
    branches      a teacher of several branches or BatchNorm sets gives the features of "all" that serve a family, for
                  every picture, or of its "own" alone, which serve the picture's kind. Each counts as a teacher
    form          "standard": half 1 - cosine and half smooth L1 of standardised features (UNIC, arXiv 2408.05088);
                  "fitnets": squared distances (arXiv 1412.6550); "mgd": of generated maps (arXiv 2205.01529). Sums of
                  squares need small weights, such as {"features": 2e-5}
    summary       whether "pooled" is imitated; MGD imitates maps alone
    maps          the maps that are imitated
    share         of 1 - cosine in the standard form
    standardise   whether the teacher's features have mean 0 and variance 1 per channel; None: in the standard form
    ladder        whether finer maps of the student take part in the predictions, each by a small perceptron
    hidden        channels inside such a perceptron; that of the map itself has four times as many at most
    keep          probability with which a teacher counts whose loss of a picture is not the largest; 1: all count
    mask          share of what MGD masks: positions, or with `mask_channels` channels
    logits        whether the outputs of teachers' heads are imitated too, one term SOURCE_logits each
    temperature   of those outputs (arXiv 1503.02531)
    """

    teachers: dict[str, list[str]] = field(min_length=1, say="{role: [] or kinds of groups}")
    branches: Literal["all", "own"] = "all"
    form: Literal["standard", "fitnets", "mgd"] = "standard"
    summary: bool = True
    maps: list[Literal["layer1", "layer2", "layer3", "layer4"]] = field(["layer3", "layer4"])
    share: float = field(0.5, ge=0.0, le=1.0)
    standardise: bool | None = None
    ladder: bool = True
    hidden: int = field(256, ge=1)
    keep: float = field(0.5, ge=0.0, le=1.0)
    mask: float = field(0.65, ge=0.0, lt=1.0)
    mask_channels: bool = False
    logits: bool = False
    temperature: float = field(4.0, gt=0.0)

    @pydantic.model_validator(mode="after")
    def _of_its_form(self) -> Self:
        mgd, given = self.form == "mgd", self.model_fields_set
        without = {
            **dict.fromkeys(("mask", "mask_channels"), not mgd),
            **dict.fromkeys(("summary", "ladder", "hidden"), mgd),
            "share": self.form != "standard",
        }
        for name, unused in without.items():
            if unused and name in given:
                raise wrong(f"has no effect in the form {self.form!r}; leave it out", name)
        if "temperature" in given and not self.logits:
            raise wrong("has no effect without logits; set logits to True", "temperature")
        return self

    @pydantic.model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.maps or (self.summary and self.form != "mgd") or self.logits):
            raise wrong("nothing is imitated; name maps, such as layer4", "maps")
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs that are imitated."""
        summary = (POOLED,) if self.summary and self.form != "mgd" else ()
        return (*summary, *self.maps)

    @property
    def standardised(self) -> bool:
        """Whether the teacher's features are standardised."""
        return self.form == "standard" if self.standardise is None else self.standardise


class Imitator(nn.Module):
    """The projectors of all teachers, and the statistics of their features."""

    settings: Imitate
    dtype: Dtype | None = None  # the compute dtype of the projectors

    @nn.compact
    def __call__(
        self,
        teacher: str,
        student: Features,
        wanted: Features,
        train: bool,
        inside: Callable[[jax.Array], jax.Array | None] = lambda _: None,
    ) -> jax.Array:
        """The loss per picture [B] of the student's outputs against those of a teacher.

        `teacher` names its projectors and statistics, which `train` updates. `inside` gives the positions of a map that
        are on the pictures. In the standard form it is the mean over the outputs, in the others the sum.
        """
        losses = []
        for name in self.settings.outputs:
            valid = inside(wanted[name]) if name != POOLED else None
            losses.append(
                self._loss(f"{teacher}_{name}", name, student, wanted[name], train, valid)
            )
        total = sum(losses[1:], losses[0])
        return total / len(losses) if self.settings.form == "standard" else total

    def _loss(
        self,
        module: str,
        name: str,
        student: Features,
        target: jax.Array,
        train: bool,
        valid: jax.Array | None,
    ) -> jax.Array:
        settings = self.settings
        target = jax.lax.stop_gradient(target)
        if settings.standardised:
            target = Standardise(name=f"{module}_standard")(target, train, valid)
        if settings.form == "mgd":
            generator = Generator(
                target.shape[-1], settings.mask, settings.mask_channels, self.dtype, name=module
            )
            made = generator(to_grid(student[name], target.shape[1:3]), train)
            return distillation.mgd(_on_pictures(made, target, valid), target)
        predicted = self._predicted(module, name, student, target)
        if settings.form == "fitnets":
            return distillation.hint(_on_pictures(predicted, target, valid), target)
        return distillation.cosine_and_smooth_l1(predicted, target, settings.share, valid)

    def _predicted(self, module: str, name: str, student: Features, target: jax.Array) -> jax.Array:
        features, hidden = target.shape[-1], self.settings.hidden
        finer = LAYERS if name == POOLED else LAYERS[: LAYERS.index(name)]
        inner = finer if self.settings.ladder else ()
        if name == POOLED:
            adapter: Any = Adapter(features, inner, hidden, 4 * hidden, self.dtype, name=module)
            return adapter(student)
        ladder: Any = Ladder(features, name, inner, hidden, 4 * hidden, self.dtype, name=module)
        return ladder(student, target.shape[1:3])


def _on_pictures(predicted: jax.Array, target: jax.Array, valid: jax.Array | None) -> jax.Array:
    """A prediction that is right where no picture is."""
    return predicted if valid is None else jnp.where(valid[..., None], predicted, target)
