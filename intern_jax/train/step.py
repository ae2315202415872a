"""The train step: gradient, accumulation, update and moving averages. A step that is not finite is undone.

Accumulation is exact. A loss term is a sum divided by a count. The gradient of a micro-batch is that of its own sum
divided by the count of the whole batch. A mean over some of the rows is therefore the same mean, however the rows are
split. A separate pass computes the counts. They usually depend on labels and masks alone, and XLA removes the rest of
that pass as dead code.

Some stages couple rows through their embeddings alone (Stage.embed, Stage.couple). Their gradient is computed by
GradCache (arXiv 2101.06983). A first pass computes the embeddings of all rows and stores no activations. Then the
gradient of the coupled terms by the embeddings is computed. A second pass over the micro-batches propagates it to the
parameters.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from intern_jax.core import averages, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.core.statistics import held_still
from intern_jax.train.progress import outputs
from intern_jax.train.progress.outputs import Outputs
from intern_jax.train.settings import MAIN
from intern_jax.train.stage import Averages, Batch, Context, Stage
from intern_jax.train.state import STATISTICS, TrainState, followed

CARRIED = "(carried)"  # the name of a helper term with the gradient of the coupled terms
Scalars = dict[str, jax.Array]
Gradient = tuple[Any, Any, Averages, Averages]  # gradients, other collections, terms, metrics
Loss = Callable[[Context], tuple[Averages, tuple[Any, Averages]]]


def check_accumulation(stage: Stage, accumulate: int, extra: Any = None) -> None:
    """Raise UserError if micro-batches would change the loss. `extra` holds the stage's collections, if known."""
    if accumulate == 1:
        return
    both = type(stage).couple is not Stage.couple and not stage.cached
    if stage.batch_coupled or both:
        raise UserError(
            f"train.accumulate: {accumulate} micro-batches would change the loss of {stage.name}, "
            "which couples the rows of a batch; set it to 1"
        )
    if not stage.cached or extra is None:
        return
    prefix = f"{STATISTICS}/"
    names = [n.removeprefix(prefix) for n in tree.names(extra) if n.startswith(prefix)]
    moving = [n for n in names if not (stage.still and re.match(stage.still, n))]
    coupled = [n for n in moving if re.match(stage.coupled, n)]
    if coupled:
        raise UserError(
            f"train.accumulate: {accumulate} micro-batches would change the loss of {stage.name}: "
            f"BatchNorm ({coupled[0]}) couples the rows before it; "
            "set it to 1, or take a backbone without BatchNorm, such as a ViT"
        )


def make_step(
    stage: Stage,
    tx: optax.GradientTransformation,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    shardings: TrainState | None = None,
    frozen_shardings: Any = None,
    group_of: Callable[[str], str] = lambda _name: MAIN,
    max_bad_steps: int = 10,
) -> jax.stages.Wrapped:
    """The jitted step (state, frozen, batch, key, rates) -> (state, scalars). It donates the state.

    `accumulate` is the number of micro-batches per step. `rates` is {optimizer group: learning rate},
    and `group_of` gives the group of a parameter's name. A step whose loss or gradient is not finite
    changes nothing but the counters. After `max_bad_steps` such steps in a row `bad_steps` counts good
    ones too: a streak that ends before the counter is read is still seen. `shardings` and
    `frozen_shardings` say how the state and the frozen arrays are stored; without them the compiler
    chooses. Arrays sharded over fsdp are
    all-gathered before the forward pass or, if the stage's `gather_late` matches them, by the layer
    that reads them. Gradients are sharded again afterwards.
    """
    check_accumulation(stage, accumulate)
    gradient = gradient_of(stage, accumulate, shardings, frozen_shardings)

    def step(state: TrainState, frozen: Any, batch: Batch, key: jax.Array, rates: Scalars):
        trainable, rest = tree.partition(state.params, stage.trainable)
        key = jax.random.fold_in(key, state.step)
        context = context_of(state, frozen, batch, key)
        grads, extra, terms, metrics = gradient(trainable, rest, context)
        _check_weights(stage, terms)
        scalars = {n: averages.value(a) for n, a in {**terms, **metrics}.items()}
        scalars["loss"] = _total(stage, terms, state.scales)
        scalars |= {f"weight_{n}": stage.weights.get(n, 1.0) * s for n, s in state.scales.items()}
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(norm) & jnp.isfinite(scalars["loss"])
        updates, opt_state = tx.update(grads, state.opt_state, trainable)
        updated = _limited(_updated(trainable, updates, rates, group_of), stage.limits)
        params = tree.merge(updated, rest)
        # Early in training the average follows faster, or it would keep the initial values for long.
        early = (1.0 + state.step) / (10.0 + state.step)
        ema = _follow(state.ema, followed(params, extra), jnp.minimum(ema_decay, early))
        mine = tree.partition(params, stage.average)[0] if stage.average else {}
        average = _follow(state.average, mine, stage.average_decay)
        new = {"params": params, "extra": extra, "opt_state": opt_state}
        new |= {"ema": ema, "average": average}
        old = {name: getattr(state, name) for name in new}
        new = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
        bad = (~good).astype(jnp.int32)
        over = good & (state.bad_steps < max_bad_steps)
        streak = jnp.where(over, 0, state.bad_steps + 1)
        counters = {"bad_steps": streak, "bad_total": state.bad_total + bad}
        state = state.replace(step=state.step + 1, **new, **counters)
        known = outputs.about(terms, metrics, _named_rates(rates), state.scales)
        made = {**scalars, "gradient_norm": norm, **_named_rates(rates), **counters}
        return state, Outputs(made, known)

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def context_of(state: TrainState, frozen: Any, batch: Batch, key: jax.Array) -> Context:
    """What a loss may read in a step, but for the parameters."""
    return Context(
        state.step,
        {},
        state.extra,
        frozen,
        state.average,
        batch,
        key,
        state.scales,
        batches=state.step - state.bad_total,
    )


def gradient_of(
    stage: Stage, accumulate: int, shardings: TrainState | None, frozen_shardings: Any
) -> "_Gradient":
    """The gradient of a stage's loss as the step computes it."""
    return _Gradient(stage, accumulate, _Places.of(stage, shardings, frozen_shardings))


class _Gradient:
    """Computes (trainable, rest, context) -> Gradient: for a whole batch, micro-batches or cached embeddings."""

    def __init__(self, stage: Stage, accumulate: int, places: "_Places"):
        self.stage, self.accumulate, self.places = stage, accumulate, places

    def __call__(self, trainable: Any, rest: Any, context: Context) -> Gradient:
        if self.accumulate == 1:
            return self._of(self.stage.loss, trainable, rest, context)
        if self.stage.cached:
            return self._by_cache(trainable, rest, context)
        counts = self._counts(lambda here: self.stage.loss(here)[0], trainable, rest, context)

        def micro(here: Context, _: Any) -> Gradient:
            return self._of(self.stage.loss, trainable, rest, here, counts)

        return self._sum(micro, trainable, context)

    def _of(
        self, loss: Loss, trainable: Any, rest: Any, context: Context, counts: Any = None
    ) -> Gradient:
        """The Gradient of a function like Stage.loss. Its terms' sums are divided by `counts`, or by their own."""

        def total(trainable: Any):
            terms, (extra, metrics) = self._run(loss, trainable, rest, context)
            return _total(self.stage, terms, context.scales, counts), (extra, terms, metrics)

        grads, (extra, terms, metrics) = jax.grad(total, has_aux=True)(trainable)
        return self.places.scattered(grads), extra, terms, metrics

    def _run(self, function: Callable[[Context], Any], trainable: Any, rest: Any, context: Context):
        """`function` of the context with gathered arrays, while BatchNorm is held still and the mesh is in use."""
        with held_still(self.stage.still), self.places.mesh_in_use():
            return function(self.places.gathered(context, tree.merge(trainable, rest)))

    def _counts(
        self, terms: Callable[[Context], Averages], trainable: Any, rest: Any, context: Context
    ) -> Scalars:
        """The counts of the terms, added over all micro-batches. Their sums are dead code, which XLA removes."""

        def micro(_: None, item: Any):
            made = self._run(terms, trainable, rest, self._micro(context, item))
            return None, {name: average.count for name, average in made.items()}

        _, counts = jax.lax.scan(micro, None, self._items(context))
        return {name: count.sum(axis=0) for name, count in counts.items()}

    def _sum(
        self,
        micro: Callable[[Context, Any], Gradient],
        trainable: Any,
        context: Context,
        more: Any = (),
    ) -> Gradient:
        """Gradients and averages, summed over micro-batches. Each reads the collections that the previous one wrote.

        `more` holds arrays by row; `micro` gets the rows of its micro-batch.
        """

        def one(carry: Any, item: Any):
            extra, total = carry
            here = self._micro(context.replace(extra=extra), item)
            grads, extra, *made = micro(here, item[-1])
            return (extra, jax.tree.map(jnp.add, total, grads)), made

        zeros = jax.tree.map(jnp.zeros_like, trainable)
        items = self._items(context, more)
        (extra, grads), made = jax.lax.scan(one, (context.extra, zeros), items)
        return grads, extra, *jax.tree.map(lambda x: x.sum(axis=0), made)

    def _items(self, context: Context, more: Any = ()) -> tuple[jax.Array, Batch, Any]:
        """The inputs of a scan over micro-batches: their indices, their rows, and their rows of `more`."""
        batch, more = jax.tree.map(lambda x: _split(x, self.accumulate), (context.batch, more))
        return jnp.arange(self.accumulate), batch, more

    def _micro(self, context: Context, item: tuple[jax.Array, Batch, Any]) -> Context:
        """The context of one micro-batch."""
        index, rows, _ = item
        key = jax.random.fold_in(context.key, index)
        batches = context.batches * self.accumulate + index
        return context.replace(batch=rows, key=key, batches=batches)

    def _by_cache(self, trainable: Any, rest: Any, context: Context) -> Gradient:
        stage = self.stage

        def embed(_: None, item: Any):
            return None, self._run(stage.embed, trainable, rest, self._micro(context, item))[0]

        _, embeddings = jax.lax.scan(embed, None, self._items(context))
        embeddings = jax.tree.map(_join, embeddings)

        def coupled(trainable: Any, embeddings: Any):
            terms, (changed, metrics) = self._run(
                lambda here: stage.couple(here, embeddings), trainable, rest, context
            )
            return _total(stage, terms, context.scales), (changed, terms, metrics)

        both = jax.grad(coupled, argnums=(0, 1), has_aux=True)
        (direct, cotangents), (changed, terms, metrics) = both(trainable, embeddings)
        counts = self._counts(lambda here: stage.embed(here)[1], trainable, rest, context)

        def micro(here: Context, cotangents: Any) -> Gradient:
            def loss(here: Context):
                embeddings, terms, others = stage.embed(here)
                # By the chain rule, its gradient is that of the coupled terms through these embeddings.
                carried = jax.tree.map(lambda c, e: (c * e).sum(), cotangents, embeddings)
                return {**terms, CARRIED: averages.whole(jax.tree.reduce(jnp.add, carried))}, others

            ones = {**counts, CARRIED: jnp.ones(())}
            return self._of(loss, trainable, rest, here, ones)

        grads, extra, own, others = self._sum(micro, trainable, context, cotangents)
        grads = jax.tree.map(jnp.add, self.places.scattered(direct), grads)
        own = {name: average for name, average in own.items() if name != CARRIED}
        return grads, {**extra, **changed}, {**own, **terms}, {**others, **metrics}


@dataclasses.dataclass(frozen=True)
class _Places:
    """The mesh and the shardings inside the step; None lets the compiler choose.

    `whole`, `frozen` and `average` are those of parameters, frozen arrays and average in use. `parts`
    are those of the gradients, and `late` those of parameters that layers gather.
    """

    mesh: Any = None
    whole: Any = None
    frozen: Any = None
    average: Any = None
    parts: Any = None
    late: Any = None

    @classmethod
    def of(cls, stage: Stage, shardings: TrainState | None, frozen: Any) -> "_Places":
        # Without these constraints, XLA (jaxlib 0.10.2) computed wrong gradients of convolutions on a 2x2x2 mesh.
        if shardings is None:
            return cls()
        mesh = jax.tree.leaves(shardings)[0].mesh
        if mesh.shape["fsdp"] == 1:
            return cls(mesh)
        late: dict[str, Any] = {}
        soon = shardings.params
        if stage.gather_late:
            late, soon = tree.partition(shardings.params, stage.gather_late)
        return cls(
            mesh,
            whole=tree.merge(jax.tree.map(mesh_lib.gathered, soon), late),
            frozen=jax.tree.map(mesh_lib.gathered, frozen) or None,
            average=jax.tree.map(mesh_lib.gathered, shardings.average),
            parts=tree.partition(shardings.params, stage.trainable)[0],
            late=late,
        )

    def mesh_in_use(self) -> contextlib.AbstractContextManager[Any]:
        """Lets a loss find the mesh by `jax.sharding.get_abstract_mesh`, for a `jax.shard_map` over its rows."""
        if self.mesh is None:
            return contextlib.nullcontext()
        return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)

    def gathered(self, context: Context, params: Any) -> Context:
        """The context with parameters, frozen arrays and average all-gathered for the forward pass."""
        params = _place(params, self.whole)
        if self.late:
            flat, late = tree.names(params), tree.names(self.late)
            kept = {name: mesh_lib.Kept(flat[name], sharding) for name, sharding in late.items()}
            params = tree.merge(params, tree.unflatten(kept))
        return context.replace(
            params=params,
            frozen=_place(context.frozen, self.frozen),
            average=_place(context.average, self.average),
        )

    def scattered(self, grads: Any) -> Any:
        """Gradients with the sharding of their parameters."""
        return _place(grads, self.parts)


def _place(arrays: Any, shardings: Any) -> Any:
    return arrays if shardings is None else jax.lax.with_sharding_constraint(arrays, shardings)


def _total(
    stage: Stage, terms: Averages, scales: Scalars, counts: Mapping[str, Any] | None = None
) -> jax.Array:
    """The weighted sum of the terms. Each term is its sum divided by its entry in `counts`, or by its own count."""
    total = jnp.zeros(())
    for name, term in terms.items():
        count = term.count if counts is None else counts[name]
        mean = averages.value(term.replace(count=jax.lax.stop_gradient(count)))
        total += stage.weights.get(name, 1.0) * scales.get(name, 1.0) * mean
    return total


def _check_weights(stage: Stage, terms: Averages) -> None:
    for name in stage.weights:
        if name not in terms:
            known = ", ".join(sorted(terms))
            raise UserError(f"{stage.name}.weights.{name}: no such loss term; known: {known}")


def _updated(params: Any, updates: Any, rates: Scalars, group_of: Callable[[str], str]) -> Any:
    """Parameters after one update with the learning rate of their group."""
    flat, changes = tree.names(params), tree.names(updates)
    made = {n: p - (rates[group_of(n)] * changes[n]).astype(p.dtype) for n, p in flat.items()}
    return tree.unflatten(made)


def _limited(params: Any, limits: Mapping[str, tuple[float, float]]) -> Any:
    """Parameters with those that `limits` matches inside their limits."""
    flat = tree.names(params)
    for regex, (low, high) in limits.items():
        flat |= {n: jnp.clip(flat[n], low, high) for n in flat if re.fullmatch(regex, n)}
    return tree.unflatten(flat)


def _follow(average: Any, params: Any, decay: Any) -> Any:
    """A moving average after one more step; None stays None. Of what is counted in whole numbers it is the last."""
    if average is None:
        return None

    def one(a: jax.Array, p: jax.Array) -> jax.Array:
        return decay * a + (1 - decay) * p if jnp.issubdtype(a.dtype, jnp.inexact) else p

    return jax.tree.map(one, average, params)


def _named_rates(rates: Scalars) -> Scalars:
    """Learning rates by the names under which they are logged."""
    return {"learning_rate" if g == MAIN else f"learning_rate_{g}": r for g, r in rates.items()}


def _split(x: jax.Array, parts: int) -> jax.Array:
    # Row r goes to micro-batch r % parts. Devices hold contiguous rows, so each device keeps its own rows.
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)


def _join(x: jax.Array) -> jax.Array:
    """The inverse of `_split`."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def scalars_of(made: Mapping[str, jax.Array]) -> dict[str, float]:
    """A step's outputs on the host."""
    return {name: float(value) for name, value in jax.device_get(dict(made)).items()}
