"""Linear probe: multinomial logistic regression on frozen features, fitted by L-BFGS.

The objective is that of scikit-learn's LogisticRegression with C = 1 / (l2 * rows); the bias has no penalty:
    mean cross-entropy of the labelled rows + l2 / 2 * |kernel|^2

Legend: N rows, D features, K classes, L values of l2.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from intern_jax.core.config import UserError

FOLDS = 5
GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 30.0, 100.0)
USUAL = 0.1  # where no class has two rows, and so no fold tells anything
# A probe's readout (models/heads/readout.py), unless settings say another; chosen by tools/bench/readouts.py.
READOUT = "grids"
MAX_STEPS = 200
MEMORY = 10
# Stop when the gradient, in coordinates of unit curvature, predicts a gain below this share of the objective.
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear classifier of standardised features: ((x - mean) / scale) @ kernel + bias."""

    kernel: np.ndarray  # [D,K] float32
    bias: np.ndarray  # [K] float32
    mean: np.ndarray  # [D] float32
    scale: np.ndarray  # [D] float32
    l2: float
    validation_score: float | None  # percent of rows right, each by a fit of the other folds
    validation_loss: (
        float | None
    )  # the mean cross-entropy of the same; None where no row was held out

    def logits(self, features_NxD: np.ndarray) -> np.ndarray:
        """Logits [N,K] float32."""
        x = (np.asarray(features_NxD, np.float32) - self.mean) / self.scale
        return x @ self.kernel + self.bias


def fit_probe(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    rows: np.ndarray | None = None,
    folds: np.ndarray | None = None,
    l2_grid: Sequence[float] = GRID,
    seed: int = 0,
) -> Probe:
    """Fit on `rows` (all by default) of features [N,D] and labels [N].

    Features are standardised by the mean and deviation of those rows. l2 is the value of the grid with the lowest
    cross-entropy in cross-validation: each fold is predicted by a fit of the others. `folds` gives the fold of each
    of the rows (fold_numbers by default, drawn by `seed`), -1 for a row that is never held out. Where no row is, l2 is
    the value of the grid nearest to 0.1; of one value there is no choice, and nothing is held out. Finally all rows
    are fitted with that l2. Rows are padded to a power of two, or to N if that is less, so that all draws of a label
    fraction share one compiled program.

    UserError for no rows, labels out of range, features that are not finite, folds of another length, or a fold of
    all rows.
    """
    picked = np.arange(len(features)) if rows is None else np.asarray(rows)
    x, y = np.asarray(features)[picked].astype(np.float64), np.asarray(labels)[picked]
    grid = np.sort(np.asarray(l2_grid, np.float32))
    _check(x, y, num_classes, grid)
    folds = fold_numbers(y, seed=seed) if folds is None else _checked_folds(folds, len(y))
    if len(grid) == 1:
        folds = np.full(len(y), -1)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale < 1e-6 * max(scale.max(), 1e-6)] = 1.0
    x = ((x - mean) / scale).astype(np.float32)
    length = min(1 << (len(y) - 1).bit_length(), len(features))
    basis, variance = _principal(x, min(length, x.shape[1]))
    pad = (0, length - len(y))
    kernel, bias, choice, loss, accuracy = jax.device_get(
        _fit(
            np.pad(x @ basis, (pad, (0, 0))),
            np.pad(y.astype(np.int32), pad),
            np.pad(np.ones(len(y), np.float32), pad),
            np.pad(folds.astype(np.int32), pad, constant_values=-1),
            variance,
            grid,
            num_classes=num_classes,
            num_folds=max(int(folds.max()) + 1, 1),
        )
    )
    known = bool((folds >= 0).any())
    return Probe(
        kernel=basis @ kernel,
        bias=bias,
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        l2=float(grid[choice]),
        validation_score=100.0 * float(accuracy) if known else None,
        validation_loss=float(loss) if known else None,
    )


def fold_numbers(
    labels: np.ndarray, count: int = FOLDS, seed: int = 0, order: np.ndarray | None = None
) -> np.ndarray:
    """The fold of each row, int32 [N]: each class is dealt over all folds, and every fold has about as many rows.

    The only row of a class is in no fold (-1): a fit without it could not know the class. `order` [N] is the order in
    which rows are dealt; by default `seed` draws one.
    """
    order = np.random.default_rng(seed).permutation(len(labels)) if order is None else order
    folds = np.full(len(labels), -1, np.int32)
    dealt = 0
    for label in np.unique(labels):
        rows = order[np.asarray(labels)[order] == label]
        if len(rows) > 1:
            folds[rows] = (dealt + np.arange(len(rows))) % count
            dealt += len(rows)
    used = np.unique(folds[folds >= 0])  # of few rows some folds stay empty
    return np.where(folds < 0, -1, np.searchsorted(used, folds)).astype(np.int32)


def _check(x: np.ndarray, y: np.ndarray, num_classes: int, grid: np.ndarray) -> None:
    if not len(y):
        raise UserError("rows: empty; a probe needs at least one labelled row")
    if y.min() < 0 or y.max() >= num_classes:
        raise UserError(f"labels: {y.min()}..{y.max()} do not fit {num_classes} classes")
    if not np.isfinite(x).all():
        raise UserError("features: not finite; the backbone's weights are broken or overflow")
    if not len(grid) or grid[0] <= 0:
        raise UserError("l2: needs values above 0")


def _checked_folds(folds: np.ndarray, count: int) -> np.ndarray:
    folds = np.asarray(folds)
    if folds.shape != (count,) or folds.dtype.kind != "i":
        raise UserError(
            f"folds: {folds.dtype} {folds.shape}; give a whole number per row of {count}"
        )
    if len(np.unique(folds)) == 1 and folds[0] >= 0:
        raise UserError("folds: all rows are in one; leave some to train on")
    return folds


def _principal(x: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis [D,dims] of the rows of x, and the variance [dims] along each column.

    The best kernel is in the span of the rows, and a rotation does not change |kernel|^2. In this basis
    the curvature is nearly diagonal, which saves most steps of L-BFGS.
    """
    if len(x) >= x.shape[1]:
        variance, basis = np.linalg.eigh(x.T @ x / len(x))
    else:
        # Of the rows' products: a singular value decomposition would take twenty times as long. A direction
        # with less than 1e-10 of the largest variance is rounding: it gets none.
        wide = x.astype(np.float64)
        variance, rows = np.linalg.eigh(wide @ wide.T / len(x))
        known = variance > 1e-10 * variance[-1]
        scale = np.sqrt(np.where(known, variance, 1.0) * len(x))
        basis = (wide.T @ (rows * np.where(known, 1 / scale, 0.0))).astype(np.float32)
        variance = np.where(known, variance, 0.0).astype(np.float32)
    missing = dims - basis.shape[1]  # rows were padded to a power of two
    return np.pad(basis, ((0, 0), (0, missing))), np.pad(np.maximum(variance, 0.0), (0, missing))


@functools.partial(jax.jit, static_argnames=("num_classes", "num_folds"))
def _fit(x, y, weight, folds, variance, grid, *, num_classes, num_folds):
    """(kernel [D,K], bias [K], index into grid [L], cross-entropy and share of right ones over the folds).

    `weight` and `folds` [N] are 0 and -1 for padding. One loop goes over the folds and, in each, over the grid from the
    strongest l2 on; each fit starts from the one before. The last fit uses all rows and the chosen value. So only
    one solver is compiled, and it takes fewer steps than a fit of all values at once.
    """
    values, count = len(grid), (folds >= 0).sum()
    zeros = jnp.zeros((x.shape[1] + 1, num_classes), jnp.float32)

    def visit(i, carry):
        weights, losses, right = carry
        fold, place = i // values, values - 1 - i % values
        last = i == num_folds * values
        held = (folds == fold).astype(jnp.float32)
        weights = _solve(
            x,
            y,
            variance,
            jnp.where(last, weight, weight - held),
            jnp.where(last, grid[_best(losses, grid, count)], grid[place]),
            jnp.where(last | (i % values == 0), zeros, weights),
            max_steps=jnp.where(last | (count > 0), MAX_STEPS, 0),
        )
        logits = _logits(x, weights)
        held = jnp.where(last, 0.0, held)
        losses = losses.at[place].add((_cross_entropy(logits, y) * held).sum())
        right = right.at[place].add(jnp.where(logits.argmax(-1) == y, held, 0.0).sum())
        return weights, losses, right

    none = jnp.zeros(values, jnp.float32)
    fitted, losses, right = jax.lax.fori_loop(0, num_folds * values + 1, visit, (zeros, none, none))
    best = _best(losses, grid, count)
    return fitted[:-1], fitted[-1], best, losses[best] / count, right[best] / count


def _best(losses: jax.Array, grid: jax.Array, count: jax.Array) -> jax.Array:
    """The index of the lowest loss; of the value nearest to the usual one where nothing was held out."""
    usual = jnp.abs(jnp.log(grid / USUAL)).argmin()
    return jnp.where(count > 0, losses.argmin(), usual)


def _logits(x: jax.Array, weights: jax.Array) -> jax.Array:
    """The logits for weights [D+1,K], kernel above bias, in full precision on every platform."""
    product = jnp.matmul(x, weights[:-1], precision=jax.lax.Precision.HIGHEST)
    return product + weights[-1][None]


def _cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The cross-entropy [N] of logits [N,K]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def _solve(x, y, variance, weight, l2, start, max_steps):
    """The weights [D+1,K] that minimise the objective, from `start` on; `start` itself if max_steps is 0."""
    num_classes = start.shape[1]
    # If all classes are equally likely, the curvature is variance / K + l2.
    curvature = jnp.append(variance / num_classes + l2, 1.0 / num_classes)
    unit = jax.lax.rsqrt(curvature)[:, None]
    share = weight / weight.sum()

    def objective(u):
        weights = unit * u
        penalty = 0.5 * l2 * jnp.sum(weights[:-1] ** 2)
        return jnp.sum(_cross_entropy(_logits(x, weights), y) * share) + penalty

    return unit * _lbfgs(objective, start / unit, max_steps)


def _lbfgs(objective, start, max_steps):
    """The minimum of a convex function by L-BFGS; each step is halved until the value falls enough.

    In a convex function the curvature of every pair is positive, so no Wolfe search is needed. The
    program contains the objective once, because compiling it takes longer than most of these fits.
    """
    evaluate = jax.value_and_grad(objective)
    pairs = jnp.zeros((MEMORY, *start.shape), start.dtype)

    def unfinished(carry):
        step, _, value, grad, _, _, fall = carry
        promised = 0.5 * jnp.sum(grad**2)
        far = jnp.minimum(promised, fall) > TOLERANCE * value
        return (step < max_steps) & (far | (step == 0))

    def advance(carry):
        step, u, value, grad, moves, bends, _ = carry
        direction = -_inverse_times(grad, moves, bends)
        slope = jnp.sum(grad * direction)

        def too_long(search):
            size, _, after, _ = search
            return ~(after <= value + 1e-4 * size * slope) & (size > 1e-3)

        def halve(search):
            size = 0.5 * search[0]
            moved = u + size * direction
            return size, moved, *evaluate(moved)

        untried = (jnp.float32(2.0), u, jnp.float32(jnp.nan), grad)
        _, moved, after, after_grad = jax.lax.while_loop(too_long, halve, untried)
        moves = jnp.roll(moves, 1, axis=0).at[0].set(moved - u)
        bends = jnp.roll(bends, 1, axis=0).at[0].set(after_grad - grad)
        fall = value - after
        u, value, grad = jax.tree.map(
            functools.partial(jnp.where, fall > 0), (moved, after, after_grad), (u, value, grad)
        )
        return step + 1, u, value, grad, moves, bends, fall

    # The first step has direction zero and only evaluates the objective.
    unknown = jnp.float32(jnp.inf)
    carry = (jnp.int32(0), start, unknown, jnp.zeros_like(start), pairs, pairs, unknown)
    return jax.lax.while_loop(unfinished, advance, carry)[1]


def _inverse_times(grad, moves, bends):
    """The two-loop recursion over pairs [MEMORY,...], newest first; a pair without a move has no effect."""
    dots = jnp.sum(moves * bends, axis=(1, 2))
    inverse = jnp.where(dots > 0, 1.0 / jnp.where(dots > 0, dots, 1.0), 0.0)

    def down(q, pair):
        move, bend, rho = pair
        alpha = rho * jnp.sum(move * q)
        return q - alpha * bend, alpha

    q, alphas = jax.lax.scan(down, grad, (moves, bends, inverse))
    q = q * jnp.where(dots[0] > 0, dots[0] / jnp.maximum(jnp.sum(bends[0] ** 2), 1e-30), 1.0)

    def up(q, pair):
        move, bend, rho, alpha = pair
        return q + move * (alpha - rho * jnp.sum(bend * q)), None

    return jax.lax.scan(up, q, (moves, bends, inverse, alphas), reverse=True)[0]
