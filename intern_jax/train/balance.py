"""Weights of loss terms for which the gradients of all terms have equal norms at the trunk: set once, then frozen.

Terms of many data sets and families differ in size, and the largest gradients shape the trunk. Before a step that a
config names, the norm of each term's weighted gradient by the trunk's parameters is averaged over some batches. A
factor on each weight then makes all norms equal to their mean. GradNorm (arXiv 1711.02257) balances the same norms at
every step; here the weights are constant afterwards, so that the loss stays one function.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.train.stage import Batch, Stage
from intern_jax.train.state import TrainState
from intern_jax.train.step import context_of, gradient_of


def make_norms(
    stage: Stage, trunk: str, accumulate: int, shardings: TrainState, frozen_shardings: Any
) -> Callable[..., dict[str, jax.Array]]:
    """The jitted (state, frozen, batch, key, number) -> {term: norm of its weighted gradient by the trunk}.

    `trunk` is a regex over parameter names. The terms' gradients are computed one after another, each as in a step.
    """
    gradient = gradient_of(stage, accumulate, shardings, frozen_shardings)
    trainable = tree.names(tree.partition(shardings.params, stage.trainable)[0])
    mine = [name for name in trainable if re.match(trunk, name)]
    if not mine:
        raise UserError(f"train.balance.trunk: {trunk!r} matches no trainable parameter")

    def norms(state: TrainState, frozen: Any, batch: Batch, key: jax.Array, number: jax.Array):
        trainable, rest = tree.partition(state.params, stage.trainable)
        key = jax.random.fold_in(jax.random.fold_in(key, state.step), number)
        context = context_of(state, frozen, batch, key)
        names = list(state.scales)

        def of_one(alone: jax.Array) -> jax.Array:
            scales = dict(zip(names, alone, strict=True))
            grads = tree.names(gradient(trainable, rest, context.replace(scales=scales))[0])
            return optax.tree.norm([grads[name] for name in mine])

        found = jax.lax.map(of_one, jnp.eye(len(names)))
        return dict(zip(names, found, strict=True))

    return jax.jit(norms)


def scales(norms: Sequence[Mapping[str, Any]], limit: float) -> dict[str, np.float32]:
    """Factors of the terms for which their mean norms equal the mean over all terms.

    A factor lies within 1 / `limit` and `limit`. A term without a gradient, or one that is not finite, keeps 1.
    """
    mean = {name: float(np.mean([one[name] for one in norms])) for name in norms[0]}
    known = {name: norm for name, norm in mean.items() if np.isfinite(norm) and norm > 0}
    wanted = float(np.mean(list(known.values()))) if known else 1.0
    return {
        name: np.float32(np.clip(wanted / known[name], 1 / limit, limit) if name in known else 1.0)
        for name in mean
    }
