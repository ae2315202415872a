"""The contract between a stage and the loop."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
from clu.metrics import Average

from intern_jax.core.tree import Rule

Batch = Mapping[str, Mapping[str, jax.Array]]  # {group: {field: [rows, ...]}}
Variables = Mapping[str, Any]  # {"params": ..., other collections}
Averages = Mapping[str, Average]  # named sums with their counts
Embeddings = Mapping[str, jax.Array]  # named arrays [rows, ...], a row per row of the batch


class Context(flax.struct.PyTreeNode):
    """What a loss may read. A later field breaks no stage, since a stage takes what it needs by name.

    `step` counts the updates before this one; `extra` holds the other collections; `frozen` the
    stage's frozen arrays; `average` the moving average of the parameters that `Stage.average` names.
    """

    step: jax.Array
    params: Any
    extra: Any
    frozen: Any
    average: Any
    batch: Batch
    key: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and other collections, as a Flax module's `apply` takes them."""
        return {"params": self.params, **self.extra}


@dataclasses.dataclass(frozen=True)
class Role:
    """What an earlier stage is to this one: a start for its arrays or, if `frozen`, read as it is."""

    frozen: bool = False


class Stage:
    """What is trained, by which losses, and from what it starts. Subclasses set and override.

    A subclass overrides `loss`; or `embed` and `couple`, where the rows of a batch meet in the loss
    alone: such a stage may accumulate, by GradCache (train/step.py).

    name           shown in logs; a run sets the config's name of the stage
    kinds          kinds of groups that it reads; a group is named KIND or KIND_SUFFIX
    roles          {role: Role}: the earlier stages that it starts from or reads
    graft          rules that start arrays from roles (core/tree.py): the source's names are
                   ROLE/COLLECTION/NAME
    frozen         arrays that the loss reads and nothing changes, such as {role: variables}; placed once
    weights        loss term -> weight; 1 where absent. The step applies them and logs every term
    trainable      regex over parameter names; the others get no gradient and no optimizer state
    still          regex over module names ("backbone/"): BatchNorm there normalises by its running
                   statistics and leaves them as they are
    average        regex over parameter names, "" for none: a moving average of them is kept, which the
                   loss may read
    average_decay  of that average
    exports        regex over names of other collections: what a saved model has beside parameters
    batch_coupled  `loss` couples the rows of a batch: accumulation would change it, and is refused
    coupled        regex over module names: on the way to `embed`'s embeddings. BatchNorm there couples
                   rows too: GradCache is refused, unless it is `still`
    gather_late    regex over parameter names that the loss reads through Flax modules alone: split over
                   fsdp, they are gathered where a layer asks for them (core/mesh.py: Kept), the others
                   before the forward pass; "" matches none
    format         raised when a change of the code changes the stage's result
    functions      dotted names of functions that the result depends on; their formats count too
    """

    name: str = "stage"
    kinds: Sequence[str] = ()
    roles: Mapping[str, Role] = {}
    graft: Sequence[Rule] = ()
    frozen: Mapping[str, Any] = {}
    weights: Mapping[str, float] = {}
    trainable: str = ".*"
    still: str = ""
    average: str = ""
    average_decay: float = 0.999
    exports: str = "batch_stats/.*"
    batch_coupled: bool = False
    coupled: str = ".*"
    gather_late: str = ""
    format: int = 1
    functions: Sequence[str] = ()

    def check_data(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse groups of a config that the stage cannot read, by a UserError; their kinds are known."""

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """All variables, for a batch of these shapes; axes may be named by nn.Partitioned."""
        raise NotImplementedError

    def loss(self, context: Context) -> tuple[Averages, tuple[Any, Averages]]:
        """Loss terms, and (the other collections after this step, metrics).

        Each is a sum and a count, and so equal however the rows are split; what couples rows has count 1
        (core/averages.py makes both). A count depends on no parameter: no gradient passes it.
        """
        embeddings, terms, (extra, metrics) = self.embed(context)
        coupled, more = self.couple(context, embeddings)
        return {**terms, **coupled}, (extra, {**metrics, **more})

    def embed(self, context: Context) -> tuple[Embeddings, Averages, tuple[Any, Averages]]:
        """Embeddings by row, the terms of single rows, and (other collections, metrics).

        With micro-batches it runs twice for each: what embeddings depend on must not be a collection that
        it also writes.
        """
        raise NotImplementedError

    def couple(self, context: Context, embeddings: Embeddings) -> tuple[Averages, Averages]:
        """Terms and metrics of all rows together. It reads parameters, and no collection but those."""
        raise NotImplementedError

    @property
    def cached(self) -> bool:
        """Whether gradients can be accumulated through cached embeddings: not past a loss of its own."""
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
