"""A head learns one task on the outputs of a backbone that stays as it is.

Batch: group "task" with the targets of the family, and either image uint8 [B,H,W,3], of which the backbone inside the
step makes its outputs in eval mode (pictures that differ at every step), or those outputs themselves, computed once
("pooled" [B,D], or maps "layer1" ... "layer4" [B,h,w,C]). Legend: B batch, H, W image size.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from intern_jax.core import config as config_lib
from intern_jax.core.averages import couples_rows
from intern_jax.models import own, zoo
from intern_jax.models.backbone import route
from intern_jax.models.detection import canvas
from intern_jax.models.heads.deeplab import AUXILIARY
from intern_jax.ops.images import normalise
from intern_jax.tasks import task as tasks
from intern_jax.tasks.task import TaskHead
from intern_jax.train.stage import Stage


class FrozenBackbone(Stage):
    """Train the head of one task alone.

    Accumulation: a loss of all the batch's rows together (depth's silog) allows none. BatchNorm of a head sees
    one micro-batch at a time.
    """

    name = "frozen_backbone"

    def __init__(
        self,
        family: str,
        num_classes: int,
        *,
        head: str = "",
        settings: Mapping[str, Any] | None = None,
        backbone: Any = None,
        size: tuple[int, int] | None = None,
        dtype: str | None = None,
    ):
        """`head`: one of the family's decoders, "" for the usual one, with its `settings`.

        `backbone`: a model whose outputs of the batch's images are read; None where the batch has the outputs of
        pictures of `size` (height, width) pixels. `dtype`: the head's compute dtype, by default that of the backbone.
        """
        self.task = tasks.find(family)
        self.backbone, self.size = backbone, size
        self.frozen = {} if backbone is None else backbone.variables
        known = None if backbone is None else zoo.dtype_of(backbone.spec)
        self.dtype = own.dtype(dtype) or known
        self.model = TaskHead(family, num_classes, head, settings, self.dtype)
        recipe = self.task.recipe(head)
        self.weights = recipe.weights
        self.loss_of = config_lib.bind(recipe.loss)
        self.batch_coupled = couples_rows(self.loss_of)

    def init(self, key, batch):
        rows = batch["task"]
        shapes = jax.eval_shape(self.features, self.frozen, rows)
        features = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        rngs = {"params": key, "dropout": key}
        return self.model.init(rngs, features, self._size(rows), True)

    def features(self, frozen: Any, rows: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The backbone's outputs that the family's head reads."""
        names = self.task.family.outputs
        if self.backbone is None:
            # Cached maps are stored in half the bytes, in another form than the head computes in.
            dtype = self.dtype or jnp.float32
            return {name: rows[name].astype(dtype) for name in names if name in rows}
        read = self.backbone.preprocess
        pictures = normalise(rows["image"], read.mean, read.std)
        extent, size = canvas.of_rows(rows), self._size(rows)
        with canvas.only_inside(extent, size):
            pictures = canvas.cut(pictures, extent, size)
            network = self.backbone.build()
            branch = route(network, self.task.name)
            out = network.apply(frozen, pictures, train=False, task=branch)
        return jax.lax.stop_gradient({name: out[name] for name in names if name in out})

    def _size(self, rows: Mapping[str, jax.Array]) -> Sequence[int]:
        return self.size or rows["image"].shape[1:3]

    def loss(self, context):
        rows = context.batch["task"]
        features, size = self.features(context.frozen, rows), self._size(rows)
        with canvas.only_inside(canvas.of_rows(rows), size):
            out, changed = self.model.apply(
                context.variables,
                features,
                size,
                True,
                rows,
                mutable=[*context.extra, AUXILIARY],
                rngs={"dropout": context.key},
            )
        score = functools.partial(self.task.score, self.loss_of, rows=rows)
        terms = {self.task.name: score(out)}
        auxiliary = jax.tree.leaves(changed.get(AUXILIARY, {}))
        if auxiliary:
            made = [score(one) for one in auxiliary]
            terms[AUXILIARY] = made[0].replace(total=sum(one.total for one in made))
        return terms, ({name: changed[name] for name in context.extra}, {})

    def predict(self, params, extra, batch):
        """{"out": the head's output} of the backbone's outputs, or images, in batch."""
        return {"out": self.output(self.frozen, params, extra, batch)}

    def output(
        self, frozen: Any, params: Any, extra: Any, rows: Mapping[str, jax.Array]
    ) -> jax.Array:
        """The head's output of rows."""
        features, variables = self.features(frozen, rows), {"params": params, **extra}
        with canvas.only_inside(canvas.of_rows(rows), self._size(rows)):
            out: Any = self.model.apply(variables, features, self._size(rows), False, rows)
        return out

    @functools.cached_property
    def finished(self):
        """Compiled (frozen, params, extra, rows) -> the finished output (tasks/task.py: Task.finish)."""

        @jax.jit
        def run(frozen, params, extra, rows):
            return self.task.finish(self.output(frozen, params, extra, rows))

        return run
