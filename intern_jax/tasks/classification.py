"""Classification: one class per picture. Legend: N rows, K classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core.averages import Average, fraction
from intern_jax.core.config import UserError
from intern_jax.families.fields import CLASSES, PARTNER, SHARE
from intern_jax.losses.distillation import soft_cross_entropy
from intern_jax.models.heads import readout as readout_lib
from intern_jax.models.heads.linear import Linear
from intern_jax.tasks.task import Features, Loss, Rows, Task

SHOWN = 3  # best classes in a picture


class Classification(Task):
    """A linear layer on a readout of the features: "pooled", or the one that the head's settings name."""

    name = "classification"
    loss: Mapping[str, Any] = {"fn": "intern_jax.losses.classification:cross_entropy"}

    def output(
        self,
        features: Features,
        size: Sequence[int],
        num_classes: int,
        train: bool,
        head: str = "",
        settings: Mapping[str, Any] | None = None,
        rows: Rows | None = None,
    ) -> jax.Array:
        """Logits [N,K]."""
        self.check_head(head, settings or {})
        read = self.readout(settings or {})
        return Linear(num_classes, name="linear")(features[read])

    def readout(self, settings: Mapping[str, Any]) -> str:
        """The name of what the linear layer reads."""
        return settings.get("readout", "pooled")

    def check_head(self, head: str, settings: Mapping[str, Any]) -> None:
        """Refuse a readout that does not exist, and any other setting."""
        super().check_head(head, {k: v for k, v in settings.items() if k != "readout"})
        try:
            readout_lib.parse(self.readout(settings))
        except UserError as error:
            raise UserError(f"head.settings.readout: {error}") from None

    def score(
        self, loss: Loss, out: jax.Array, rows: Rows, mine: jax.Array | None = None
    ) -> Average:
        """Logits [N,K] against label [N], among the candidates; of mixed pictures also against partner_label [N]."""
        more = {name: rows[name] for name in (CLASSES, SHARE) if name in rows}
        if SHARE in rows:
            more[PARTNER] = self._label(rows, mine, PARTNER)
        return loss(out, self._label(rows, mine), mine, **more)

    def measures(
        self, out: jax.Array, rows: Rows, mine: jax.Array | None = None
    ) -> Mapping[str, Average]:
        """The share of right rows."""
        if CLASSES in rows:
            out = jnp.where(rows[CLASSES], out, -jnp.inf)
        return {"top1": fraction("top-1", jnp.argmax(out, -1) == self._label(rows, mine), mine)}

    def imitation(
        self, out: jax.Array, teacher: jax.Array, rows: Rows, temperature: float
    ) -> jax.Array:
        """The divergence from the teacher's softened probabilities, among the candidates."""
        return soft_cross_entropy(out, teacher, temperature, rows.get(CLASSES))

    @staticmethod
    def _label(rows: Rows, mine: jax.Array | None, field: str = "label") -> jax.Array:
        # Another source's label may lie outside this one's classes.
        return rows[field] if mine is None else jnp.where(mine, rows[field], 0)

    def finish(self, out: jax.Array) -> jax.Array:
        """Probabilities [N,K]."""
        return jax.nn.softmax(out)

    def answer(self, row: np.ndarray, size: tuple[int, int], classes: Sequence[str]) -> Any:
        """{"label": str, "score": float, "scores": {label: probability}}."""
        best = int(row.argmax())
        scores = dict(zip(classes, row.tolist(), strict=True))
        return {"label": classes[best], "score": float(row[best]), "scores": scores}

    def picture(
        self, out: np.ndarray, rows: Rows, classes: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """The best classes as words with their values, and the true one."""
        return words(out, rows["label"], classes)


def words(
    values_NxK: np.ndarray, label_N: np.ndarray, classes: Sequence[str]
) -> Mapping[str, np.ndarray]:
    """Each picture's best classes with their values, and its true class, as the report draws them."""
    names = np.array(classes)
    best = np.argsort(-values_NxK, axis=1)[:, :SHOWN]
    return {
        "words": names[best],
        "scores": np.take_along_axis(values_NxK, best, axis=1),
        "truth": names[label_N],
    }


TASK = Classification()
