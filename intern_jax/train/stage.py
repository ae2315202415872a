"""The contract between a stage and the loop."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from clu.metrics import Average

from intern_jax.core.tree import Rule

Batch = Mapping[str, Mapping[str, jax.Array]]  # {group: {field: [rows, ...]}}
Variables = Mapping[str, Any]  # {"params": ..., other collections}
Averages = Mapping[str, Average]  # named sums with their counts
Embeddings = Mapping[str, jax.Array]  # named arrays [rows, ...], one row per row of the batch


class Context(flax.struct.PyTreeNode):
    """What a loss may read. A stage reads fields by name, so a new field breaks no stage.

    `step` counts the updates before this one. `extra` holds the collections other than the
    parameters, `frozen` the stage's frozen arrays, and `average` the moving average of the
    parameters that `Stage.average` matches. `scales` are factors on the weights of terms
    (train/balance.py), which the step applies. `batches` counts the batches, or micro-batches, that
    went into `extra` before this one; those of undone steps did not.
    """

    step: jax.Array
    params: Any
    extra: Any
    frozen: Any
    average: Any
    batch: Batch
    key: jax.Array
    scales: Any = flax.struct.field(default_factory=dict)
    batches: jax.Array = flax.struct.field(default_factory=lambda: jnp.zeros((), jnp.int32))

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and other collections, in the form that `apply` of a Flax module takes."""
        return {"params": self.params, **self.extra}


@dataclasses.dataclass(frozen=True)
class Role:
    """What an earlier stage is for this one: the start of its arrays or, if `frozen`, a model that it reads."""

    frozen: bool = False


@dataclasses.dataclass(frozen=True)
class Blend:
    """A weighted sum of the arrays of roles: of those whose COLLECTION/NAME the regex `names` matches whole.

    Each of these roles has to be bound, and to have the same of these arrays, in the same shapes.
    """

    names: str
    weights: Mapping[str, float]  # by role


class Stage:
    """What is trained, by which losses, and from what it starts. A subclass sets fields and overrides methods.

    A subclass overrides `loss`. If only the loss couples the rows of a batch, it overrides `embed` and
    `couple` instead, and may then accumulate by GradCache (train/step.py).

    name           shown in logs; a run sets it to the stage's name in the config
    kinds          kinds of the groups that it reads; a group is named KIND or KIND_SUFFIX
    roles          {role: Role}: the earlier stages that it starts from or reads
    blends         {name: Blends}: sums of several roles' arrays. Graft rules take them like those of
                   a role of that name
    graft          rules that start arrays from roles (core/tree.py); names in the source are
                   ROLE/COLLECTION/NAME
    fresh          regex over parameter names, "" for none: they start at random by design
    frozen         arrays that the loss reads and never changes, such as {role: variables}; placed once
    weights        loss term -> weight, 1 if absent. The step applies them and logs every term
    trainable      regex over parameter names; the others get no gradient and no optimizer state
    still          regex over module names ("backbone/"): BatchNorm statistics there are frozen
    average        regex over parameter names, "" for none: the loss may read a moving average of these
    average_decay  the decay of that average per step
    limits         regex over parameter names -> (lowest, highest): the step keeps these parameters inside
    exports        regex over names of other collections: what a saved model holds beside parameters
    batch_coupled  whether `loss` couples the rows of a batch; accumulation would change it and is refused
    coupled        regex over the names of modules that `embed` uses. BatchNorm in them couples rows
                   too, so GradCache is refused unless its statistics are frozen (`still`)
    gather_late    regex over names of parameters that the loss reads through Flax modules only. If
                   sharded over fsdp, each is all-gathered by the layer that reads it (core/mesh.py:
                   Kept); the others before the forward pass. "" matches none
    format         raise it when a change of the code changes the stage's result
    functions      dotted names of functions that the result depends on; their formats count too
    """

    name: str = "stage"
    kinds: Sequence[str] = ()
    roles: Mapping[str, Role] = {}
    blends: Mapping[str, Sequence[Blend]] = {}
    graft: Sequence[Rule] = ()
    fresh: str = ""
    frozen: Mapping[str, Any] = {}
    weights: Mapping[str, float] = {}
    trainable: str = ".*"
    still: str = ""
    average: str = ""
    average_decay: float = 0.999
    limits: Mapping[str, tuple[float, float]] = {}
    exports: str = "batch_stats/.*"
    batch_coupled: bool = False
    coupled: str = ".*"
    gather_late: str = ""
    format: int = 1
    functions: Sequence[str] = ()

    def check_data(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse groups of a config that the stage cannot read, by a UserError; their kinds are known."""

    def check_roles(self, earlier: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse earlier stages that do not fit: `earlier` has each role's groups of data, and under "" its own."""

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """All variables for a batch of these shapes; nn.Partitioned may name their logical axes."""
        raise NotImplementedError

    def loss(self, context: Context) -> tuple[Averages, tuple[Any, Averages]]:
        """Loss terms, and (the other collections after this step, metrics).

        A term or metric is a sum and a count, so it does not depend on how the rows are split. A term
        that couples rows has count 1 (core/averages.py makes both kinds). A count must not depend on
        parameters: no gradient flows through it. Reports draw each term as a loss; `averages.fraction`
        and `averages.described` say what a metric is.
        """
        embeddings, terms, (extra, metrics) = self.embed(context)
        coupled, (changed, more) = self.couple(context, embeddings)
        return {**terms, **coupled}, ({**extra, **changed}, {**metrics, **more})

    def embed(self, context: Context) -> tuple[Embeddings, Averages, tuple[Any, Averages]]:
        """Embeddings by row, the loss terms of single rows, and (other collections, metrics).

        It runs twice per micro-batch, so the embeddings must not depend on a collection that it writes.
        """
        raise NotImplementedError

    def couple(
        self, context: Context, embeddings: Embeddings
    ) -> tuple[Averages, tuple[Variables, Averages]]:
        """Loss terms of all rows together, and (the collections that it changes, metrics).

        It may read parameters, and collections that `embed` does not write. It runs once per step.
        """
        raise NotImplementedError

    @property
    def blended(self) -> frozenset[str]:
        """The roles whose arrays are parts of blends."""
        return frozenset(
            role for of in self.blends.values() for blend in of for role in blend.weights
        )

    @property
    def cached(self) -> bool:
        """Whether gradients can be accumulated through cached embeddings: `couple` is set and `loss` is not."""
        return type(self).couple is not Stage.couple and type(self).loss is Stage.loss

    def predict(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The stage's outputs in evaluation mode."""
        raise NotImplementedError

    def groups(self, batch: Mapping[str, Any], kind: str) -> list[str]:
        """The batch's groups of a kind, sorted by name."""
        return sorted(group for group in batch if kind_of(group) == kind)


def kind_of(group: str) -> str:
    """The kind of a group that is named KIND or KIND_SUFFIX."""
    return group.partition("_")[0]
