"""The contract between a stage and the loop."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from intern_jax.core.tree import Rule

Batch = Mapping[str, Mapping[str, jax.Array]]  # {group: {field: [rows, ...]}}
Variables = Mapping[str, Any]  # {"params": ..., other collections}
Terms = dict[str, jax.Array]  # named scalars


@dataclasses.dataclass(frozen=True)
class Role:
    """What an earlier stage is to this one: a start for its arrays or, if `frozen`, read as it is."""

    frozen: bool = False


def family_of(group: str) -> str:
    """The family of a group that is named FAMILY or FAMILY_SUFFIX."""
    return group.partition("_")[0]


class Stage:
    """What is trained, by which losses, and from what it starts. Subclasses set and override.

    name            shown in logs
    weights         loss term -> weight; 1 where absent. The step applies them and logs every term
    graft           rules that start arrays from earlier stages (core/tree.py)
    trainable       regex over parameter names; the others get no gradient and no optimizer state
    frozen          arrays that the loss reads and nothing changes (teachers); placed once
    batch_coupled   the loss couples the rows of a batch (contrastive): accumulation would change it
    gather_late     regex over parameter names that the loss reads through Flax modules alone: split over
                    fsdp, they are gathered where a layer asks for them (core/mesh.py: Kept), the others
                    before the forward pass; "" matches none
    """

    name: str = "stage"
    families: Sequence[str] = ()
    roles: Mapping[str, Role] = {}
    exports: str = "batch_stats/.*"
    format: int = 1
    weights: Mapping[str, float] = {}
    graft: Sequence[Rule] = ()
    trainable: str = ".*"
    frozen: Any = {}
    batch_coupled: bool = False
    gather_late: str = ""

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """All variables, for a batch of these shapes; axes may be named by nn.Partitioned."""
        raise NotImplementedError

    def loss(
        self, params: Any, extra: Any, frozen: Any, batch: Batch, key: jax.Array
    ) -> tuple[Terms, tuple[Any, Terms]]:
        """Loss terms, and (the other collections after this step, metrics)."""
        raise NotImplementedError

    def predict(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The stage's outputs in evaluation mode."""
        raise NotImplementedError
