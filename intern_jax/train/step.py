"""The train step: gradient, accumulation, update, average; a bad step is left undone."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.train.stage import Batch, Stage
from intern_jax.train.state import TrainState


def check_accumulation(stage: Stage, accumulate: int) -> None:
    """Refuse micro-batches where the loss couples the rows of a batch."""
    if accumulate > 1 and stage.batch_coupled:
        raise UserError(
            f"train.accumulate: {accumulate} micro-batches would change the loss of {stage.name}, "
            "which couples the rows of a batch; set it to 1"
        )


def _loss(stage, params, extra, frozen, batch, key):
    import inspect
    import types

    if "context" not in inspect.signature(stage.loss).parameters:
        return stage.loss(params, extra, frozen, batch, key)
    context = types.SimpleNamespace(
        params=params, extra=extra, frozen=frozen, batch=batch, key=key, step=0, average={}
    )
    terms, (extra, metrics) = stage.loss(context)
    value = lambda t: {name: a.total / a.count for name, a in t.items()}  # noqa: E731
    return value(terms), (extra, value(metrics))


def make_step(
    stage: Stage,
    tx: optax.GradientTransformation,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    shardings: TrainState | None = None,
    frozen_shardings: Any = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Jitted (state, frozen, batch, key, learning_rate) -> (state, scalars); the state is donated.

    `accumulate`: micro-batches a step, whose gradients are averaged; refused where the loss
    couples rows. A step whose loss or gradient is not finite changes nothing but the counters.
    `shardings`, `frozen_shardings`: where the state and the stage's frozen arrays stay; without
    them the compiler chooses. Both are used whole on the fsdp axis: gathered before the forward pass
    or, where the stage says so (`gather_late`), by the layer; the gradient is scattered after.
    """
    check_accumulation(stage, accumulate)
    # Left to choose, XLA (jaxlib 0.10.2) made wrong gradients of convolutions on a 2x2x2 mesh.
    whole = frozen_whole = parts = None
    if shardings is not None and shardings.step.mesh.shape["fsdp"] > 1:
        late, soon = _late(stage, shardings.params)
        whole = tree.merge(jax.tree.map(mesh_lib.gathered, soon), late)
        frozen_whole = jax.tree.map(mesh_lib.gathered, frozen_shardings) or None
        parts = tree.partition(shardings.params, stage.trainable)[0]

    def loss(trainable, rest, extra, frozen, batch, key):
        params = _place(tree.merge(trainable, rest), whole)
        if whole is not None:
            params = tree.merge(params, _kept(params, late))
        frozen = _place(frozen, frozen_whole)
        terms, (extra, metrics) = _loss(stage, params, extra, frozen, batch, key)
        for name in stage.weights:
            if name not in terms:
                known = ", ".join(sorted(terms))
                raise UserError(f"{stage.name}.weights.{name}: no such loss term; known: {known}")
        total = sum(stage.weights.get(name, 1.0) * term for name, term in terms.items())
        return total, (extra, {**terms, **metrics, "loss": total})

    def grad(*arguments):
        grads, rest = jax.grad(loss, has_aux=True)(*arguments)
        return _place(grads, parts), rest

    def gradient(trainable, rest, extra, frozen, batch, key):
        if accumulate == 1:
            grads, (extra, scalars) = grad(trainable, rest, extra, frozen, batch, key)
            return grads, extra, scalars

        def micro(carry, item):
            extra, total = carry
            index, rows = item
            grads, (extra, scalars) = grad(
                trainable, rest, extra, frozen, rows, jax.random.fold_in(key, index)
            )
            return (extra, jax.tree.map(jnp.add, total, grads)), scalars

        zeros = jax.tree.map(jnp.zeros_like, trainable)
        items = (jnp.arange(accumulate), jax.tree.map(_split(accumulate), batch))
        (extra, total), scalars = jax.lax.scan(micro, (extra, zeros), items)
        mean = jax.tree.map(lambda g: g / accumulate, total)
        return mean, extra, jax.tree.map(lambda s: s.mean(axis=0), scalars)

    def step(state: TrainState, frozen: Any, batch: Batch, key: jax.Array, rate: jax.Array):
        trainable, rest = tree.partition(state.params, stage.trainable)
        key = jax.random.fold_in(key, state.step)
        grads, extra, scalars = gradient(trainable, rest, state.extra, frozen, batch, key)
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(norm) & jnp.isfinite(scalars["loss"])
        updates, opt_state = tx.update(grads, state.opt_state, trainable)
        trainable = jax.tree.map(lambda p, u: p - (rate * u).astype(p.dtype), trainable, updates)
        params = tree.merge(trainable, rest)
        ema = state.ema
        if ema is not None:
            # The early average follows quickly, or it would keep the initialisation for long.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, ema, params)
        new = (params, extra, opt_state, ema)
        old = (state.params, state.extra, state.opt_state, state.ema)
        params, extra, opt_state, ema = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
        bad = (~good).astype(jnp.int32)
        state = TrainState(
            step=state.step + 1,
            params=params,
            extra=extra,
            opt_state=opt_state,
            ema=ema,
            bad_steps=jnp.where(good, 0, state.bad_steps + 1),
            bad_total=state.bad_total + bad,
        )
        counters = {"bad_steps": state.bad_steps, "bad_total": state.bad_total}
        return state, {**scalars, "gradient_norm": norm, "learning_rate": rate, **counters}

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def _late(stage: Stage, shardings: Any) -> tuple[Any, Any]:
    """Shardings of the parameters that layers gather, and of the others."""
    return tree.partition(shardings, stage.gather_late) if stage.gather_late else ({}, shardings)


def _kept(params: Any, shardings: Any) -> dict[str, Any]:
    """The parameters of `shardings`, each with its own."""
    flat = tree.names(params)
    boxes = {n: mesh_lib.Kept(flat[n], sharding) for n, sharding in tree.names(shardings).items()}
    return tree.unflatten(boxes)


def _place(arrays: Any, shardings: Any) -> Any:
    return arrays if shardings is None else jax.lax.with_sharding_constraint(arrays, shardings)


def _split(parts: int) -> Callable[[jax.Array], jax.Array]:
    # Row r goes to micro-batch r % parts: rows lie in blocks over devices, so each keeps its own.
    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    return split


def scalars_of(outputs: Mapping[str, jax.Array]) -> dict[str, float]:
    """A step's outputs on the host."""
    return {name: float(value) for name, value in jax.device_get(dict(outputs)).items()}
