"""GV-B's published linear probe: SGD on a linear layer over frozen features, for a whole grid of settings at once.

Legend: N rows, D features, K classes, S settings, B rows of a batch, R coordinates of a row.

The recipe is that of gv-benchmark (OpenGVLab) for its 20 classification sets. Features are not normalised. The loss is
the mean softmax cross-entropy over batches of 512, for 10,000 iterations. The learning rate is multiplied by 0.1 at
30%, 60% and 90% of them. SGD has momentum in torch's form: weight decay is added to the gradient of kernel and bias,
without dampening or Nesterov. The bias starts at 0. The kernel starts Kaiming-uniform with a = sqrt(5) and fan_out,
which is +-1/sqrt(K): mmcv's default, and not torch's.

All settings see the same batches, so their kernels form one matrix [S*K,R]. A step is two products of this matrix with
the batch, a softmax over the middle axis of [S,K,B], and one update of kernel and momentum. Two more things save work
and change results only by rounding:
- A gradient is a sum of rows, so the part of a kernel outside the span of the rows only decays. With fewer rows than
  features, only the coordinates in the span are trained (R < D). The part outside is the start times one factor per
  setting.
- A batch with at least N rows is computed from all N rows, each weighted by how often it was drawn.
"""

import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.adapt.features import extract
from intern_jax.core.config import UserError

log = logging.getLogger(__name__)

CHUNK = 500  # steps per compiled call
REPORT_SECONDS = 30.0
DROPS = (0.3, 0.6, 0.9)
SCORE_BATCH = 512
LABELS_A_CLASS = (
    5  # with so many labels per class on average, a share is held out to choose the setting
)
HELD_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of the published search."""

    learning_rate: float
    weight_decay: float
    momentum: float


def grid_of(
    learning_rates: Sequence[float], weight_decays: Sequence[float], momenta: Sequence[float]
) -> tuple[Setting, ...]:
    """All combinations; the learning rate varies slowest."""
    return tuple(
        Setting(*map(float, s)) for s in itertools.product(learning_rates, weight_decays, momenta)
    )


# The published grid; 30 is the learning rate of MoCo's linear probe.
GRID = grid_of((1e-4, 10**-2.5, 1e-1, 30.0), (1e-6, 1e-5, 1e-4), (0.9, 0.99))
# The setting in the published configs; it is used if there are too few labels to choose one.
FIXED = Setting(learning_rate=0.01, weight_decay=1e-3, momentum=0.9)


@dataclasses.dataclass(frozen=True)
class SweepProbe:
    """A linear classifier of features without normalisation: x @ kernel + bias.

    `table` holds for each setting of the grid its fields, "score" (percent of held-out rows that are right, None if it
    diverged) and "cross_entropy". It is empty if nothing was held out.
    """

    kernel: np.ndarray  # [D,K] float32
    bias: np.ndarray  # [K] float32
    chosen: Setting
    validation_score: float | None  # percent of held-out rows right; None if nothing was held out
    table: tuple[dict[str, Any], ...]

    def logits(self, features_NxD: np.ndarray) -> np.ndarray:
        """Logits [N,K] float32."""
        return np.asarray(features_NxD, np.float32) @ self.kernel + self.bias


def fit_sweep(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    rows: np.ndarray | None = None,
    held: np.ndarray | None = None,
    grid: Sequence[Setting] = GRID,
    steps: int = 10_000,
    batch_size: int = 512,
    seed: int = 0,
) -> SweepProbe:
    """Fit on `rows` (all by default) of features [N,D] and labels [N].

    `held` is a mask over `rows` of those that choose the setting. Every setting of the grid is trained on the other
    rows. The setting that classifies most held-out rows correctly (on ties, with the lower cross-entropy) is trained
    again on all rows. Without held-out rows, FIXED is trained. `seed` determines the first kernel and the batches
    (`batch_order`); if there are fewer rows than `batch_size`, a batch repeats some. A setting that diverges ranks
    last. If the chosen one diverges in the final fit, the next best is taken.

    UserError for no rows, labels out of range or features that are not finite. UserError for a mask of another length,
    a mask that leaves no row to train on, and if every setting diverges.
    """
    picked = np.arange(len(features)) if rows is None else np.asarray(rows)
    x, y = np.asarray(features[picked], np.float32), np.asarray(labels)[picked].astype(np.int32)
    _check(x, y, num_classes, grid)
    held = np.zeros(len(y), bool) if held is None else check_held(held, len(y))
    run = functools.partial(
        train, steps=steps, batch_size=batch_size, seed=seed, most=len(features)
    )
    table: tuple[dict[str, Any], ...] = ()
    ranked = [FIXED]
    if held.any():
        kernels, biases = run(x[~held], y[~held], num_classes, grid)
        right, loss = scores(kernels, biases, x[held], y[held])
        # The last key of lexsort is the primary one; a setting that diverged has a share of -1.
        order = np.lexsort((loss, -right))
        ranked = [grid[i] for i in order]
        table = tuple(_entry(*each) for each in zip(grid, right, loss, strict=True))
    for chosen in ranked:
        kernels, biases = run(x, y, num_classes, [chosen])
        if np.isfinite(kernels).all() and np.isfinite(biases).all():
            break
        log.warning("%s: diverged on all rows; the next best setting is taken", chosen)
    else:
        raise UserError("features: every setting of the sweep diverged on them; scale them down")
    best = next(
        (entry for entry in table if entry.items() >= dataclasses.asdict(chosen).items()), {}
    )
    return SweepProbe(kernels[0].T, biases[0], chosen, best.get("score"), table)


def _check(x, y, num_classes, grid) -> None:
    if not len(y):
        raise UserError("rows: empty; a probe needs at least one labelled row")
    if y.min() < 0 or y.max() >= num_classes:
        raise UserError(f"labels: {y.min()}..{y.max()} do not fit {num_classes} classes")
    if not len(grid):
        raise UserError("grid: empty; give at least one setting")
    if not np.isfinite(x).all():
        raise UserError("features: not finite; the backbone's weights are broken or overflow")


def check_held(held: np.ndarray, count: int) -> np.ndarray:
    """The mask of held-out rows; UserError unless it is a mask of `count` rows that leaves some to train on."""
    held = np.asarray(held)
    if held.shape != (count,) or held.dtype != bool:
        raise UserError(f"held: {held.dtype} {held.shape}; give a bool for each of {count} rows")
    if held.all():
        raise UserError("held: marks all rows; leave some to train on")
    return held


def _entry(setting: Setting, right: float, loss: float) -> dict[str, Any]:
    finite = right >= 0
    return dataclasses.asdict(setting) | {
        "score": 100.0 * float(right) if finite else None,
        "cross_entropy": float(loss) if finite else None,
    }


def batch_order(rows: int, steps: int, batch: int, seed: int) -> np.ndarray:
    """The rows of every batch, int32 [steps,batch]: consecutive permutations of all rows, cut into batches."""
    epochs = -(-steps * batch // rows)
    every = np.broadcast_to(np.arange(rows, dtype=np.int32), (epochs, rows))
    order = np.random.default_rng(seed).permuted(every, axis=1)
    return order.reshape(-1)[: steps * batch].reshape(steps, batch)


def first_kernel(features: int, num_classes: int, seed: int) -> np.ndarray:
    """The start [K,D] float32, uniform within +-1/sqrt(K): Kaiming-uniform with a = sqrt(5) and fan_out."""
    bound = num_classes**-0.5
    rng = np.random.default_rng(seed)
    return rng.uniform(-bound, bound, (num_classes, features)).astype(np.float32)


def rate_factors(steps: int) -> np.ndarray:
    """The factor of the learning rate at every step, float32 [steps]."""
    drops = [int(share * steps) for share in DROPS]
    passed = np.searchsorted(drops, np.arange(steps), side="right")
    return (0.1**passed).astype(np.float32)


def train(
    x: np.ndarray,
    y: np.ndarray,
    num_classes: int,
    grid: Sequence[Setting],
    *,
    steps: int,
    batch_size: int,
    seed: int,
    most: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Kernels [S,K,D] and biases [S,K] of all settings after SGD on x [N,D] and y [N].

    Rows are padded to a power of two, or to `most` if that is less, so that all draws of a label fraction share one
    compiled program.
    """
    count, features = x.shape
    length = max(min(1 << (count - 1).bit_length(), most), count)
    start = first_kernel(features, num_classes, seed)
    basis = _basis(x, length)
    draws = batch_order(count, steps, batch_size, seed)
    if length <= batch_size:
        draws = _counts(draws, length)
    inside = start if basis is None else start @ basis
    state = _state(inside, len(grid))
    data = (
        np.pad(x if basis is None else x @ basis, ((0, length - count), (0, 0))),
        np.pad(y, (0, length - count)),
        draws,
        rate_factors(steps),
        *(np.asarray(v, np.float32) for v in zip(*map(dataclasses.astuple, grid), strict=True)),
    )
    state = _run(state, jax.device_put(data), steps, batch_size)
    kernels, biases, rest = np.asarray(state["kernel"]), np.asarray(state["bias"]), state["rest"]
    if basis is None:
        return kernels, biases
    with np.errstate(invalid="ignore", over="ignore"):  # a setting may have diverged
        outside = np.asarray(rest)[:, None, None] * (start - inside @ basis.T)
        return kernels @ basis.T + outside, biases


def _basis(x: np.ndarray, length: int) -> np.ndarray | None:
    """An orthonormal basis [D,R] whose span holds all rows, with R = `length`; None if R would be D or more."""
    if length >= x.shape[1]:
        return None
    basis = np.linalg.qr(x.T.astype(np.float64))[0]
    return np.pad(basis, ((0, 0), (0, length - basis.shape[1]))).astype(np.float32)


def _counts(order: np.ndarray, length: int) -> np.ndarray:
    """How often each row is in each batch, float32 [steps,length]."""
    steps = len(order)
    flat = (order + length * np.arange(steps)[:, None]).reshape(-1)
    return np.bincount(flat, minlength=steps * length).reshape(steps, length).astype(np.float32)


def _state(kernel: np.ndarray, count: int) -> dict[str, jax.Array]:
    """The start of `count` settings from one kernel [K,R]; `rest` is the factor of the part outside the span."""
    num_classes = len(kernel)
    kernels = jnp.asarray(np.broadcast_to(kernel, (count, *kernel.shape)))
    ones = jnp.ones(count, jnp.float32)
    weights = {"kernel": kernels, "bias": jnp.zeros((count, num_classes)), "rest": ones}
    return weights | {f"{name}_momentum": jnp.zeros_like(v) for name, v in weights.items()}


def _run(
    state: dict[str, jax.Array], data: tuple, steps: int, batch_size: int
) -> dict[str, jax.Array]:
    reported = time.monotonic()
    for begin in range(0, steps, CHUNK):
        end = min(begin + CHUNK, steps)
        state = jax.block_until_ready(_steps(state, begin, end, batch_size, *data))
        if time.monotonic() > reported + REPORT_SECONDS:
            log.info("sweep of %d settings: %d of %d steps", len(data[-1]), end, steps)
            reported = time.monotonic()
    return state


@functools.partial(jax.jit, donate_argnums=0)
def _steps(state, begin, end, batch_size, x, y, draws, factors, rates, decays, momenta):
    """Run steps begin..end; x [N,R], y [N], draws int [steps,B] or counts [steps,N], factors [steps], settings [S]."""
    count, num_classes = state["bias"].shape
    product = functools.partial(jax.lax.dot_general, precision=jax.lax.Precision.HIGHEST)

    def step(t, state):
        if jnp.issubdtype(draws.dtype, jnp.integer):
            batch, labels, share = x[draws[t]], y[draws[t]], jnp.ones((), jnp.float32)
        else:
            batch, labels, share = x, y, draws[t][None, None]
        kernel = state["kernel"].reshape(count * num_classes, -1)
        # Rows are the last axis: both products then read the matrix without a copy, and sums over classes vectorise.
        logits = product(kernel, batch, (((1,), (1,)), ((), ())))
        logits = logits.reshape(count, num_classes, -1) + state["bias"][..., None]
        truth = labels[None, None] == jnp.arange(num_classes)[None, :, None]
        grad = (jax.nn.softmax(logits, axis=1) - truth) * (share / batch_size)
        flat = grad.reshape(count * num_classes, -1)
        grads = {
            "kernel": product(flat, batch, (((1,), (0,)), ((), ()))).reshape(state["kernel"].shape),
            "bias": grad.sum(axis=-1),
            "rest": jnp.zeros(count),
        }
        out: dict[str, jax.Array] = {}
        for name, g in grads.items():
            rate, decay, momentum = (
                v.reshape(-1, *[1] * (g.ndim - 1)) for v in (rates * factors[t], decays, momenta)
            )
            velocity = momentum * state[f"{name}_momentum"] + (g + decay * state[name])
            out |= {name: state[name] - rate * velocity, f"{name}_momentum": velocity}
        return out

    return jax.lax.fori_loop(begin, end, step, state)


def scores(
    kernels: np.ndarray, biases: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(share of rows x [N,D] that each setting gets right, mean cross-entropy), each [S]; -1 and inf if diverged."""
    run = functools.partial(_score, jnp.asarray(kernels), jnp.asarray(biases))
    out = extract(lambda batch: run(batch["x"], batch["y"]), {"x": x, "y": y}, SCORE_BATCH)
    loss = out["loss"].astype(np.float64).mean(axis=0)
    finite = np.isfinite(loss) & np.isfinite(kernels).all(axis=(1, 2))
    right = out["right"].astype(np.float64).mean(axis=0)
    return np.where(finite, right, -1.0), np.where(finite, loss, np.inf)


@jax.jit
def _score(kernels, biases, x, y):
    """Whether each row is right, and its cross-entropy, each [B,S]."""
    logits = jnp.einsum("skd,bd->bsk", kernels, x, precision=jax.lax.Precision.HIGHEST)
    logits = logits + biases[None]
    of_truth = jnp.take_along_axis(logits, y[:, None, None], axis=-1)[..., 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - of_truth
    return {"right": logits.argmax(-1) == y[:, None], "loss": loss}
