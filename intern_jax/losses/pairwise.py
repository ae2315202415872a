"""Contrast of every row with every row, in chunks: the matrix of all pairs never exists.

A contrastive loss of B pairs reads B x B logits; 16,384 pairs make a gigabyte. Here a loop reads some rows against all
columns at a time, and its gradient computes the logits again instead of storing them. Values and gradients are exact.

On a mesh (`jax.sharding.get_abstract_mesh`, which the train step sets) each device holds its rows of both sides and
all-gathers the columns [B,D]; sums over columns and the columns' gradient are reduced over devices. The largest array
of logits is CHUNK elements on each device. Legend: B batch, D embedding size, R rows on one device, C rows of a chunk,
N bank size.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from intern_jax.core.mesh import AXES, BATCH_AXES

# Logits per chunk: 16 MiB in float32. Smaller chunks were slower on a CPU, and larger ones no faster.
CHUNK = 1 << 22

Sums = tuple[jax.Array, ...]


def softmax_entropies(
    a_BxD: jax.Array, b_BxD: jax.Array, scale: jax.Array, columns: bool = True
) -> jax.Array:
    """The mean cross-entropy of row i of `a` choosing row i of `b` among all rows, by logits scale * a @ b.T.

    With `columns`, the mean of that and of row i of `b` choosing among the rows of `a`: symmetric InfoNCE.
    """
    kind = _both if columns else _rows
    return _contrast(_wide(a_BxD), _wide(b_BxD), (_wide(scale),), kind)


def sigmoid_entropies(
    a_BxD: jax.Array, b_BxD: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
    """Sigmoid loss (SigLIP, arXiv 2303.15343): every pair is a question of its own, logits scale * a @ b.T + bias.

    The sum of -log sigmoid(logit) where rows belong together, and of -log sigmoid(-logit) elsewhere, over B.
    """
    return _contrast(_wide(a_BxD), _wide(b_BxD), (_wide(scale), _wide(bias)), _sigmoid)


def nearest_rows(query_BxD: jax.Array, bank_NxD: jax.Array, sharded: bool = False) -> jax.Array:
    """For each query the row of the bank with the largest inner product; the first of equal ones. No gradient flows.

    `sharded` says that the bank is stored by rows over the mesh axis fsdp. Each device then searches its rows of
    the bank for the queries of its fsdp group; a replicated bank is searched by each device for its own queries.
    """
    query, bank = jax.lax.stop_gradient((_wide(query_BxD), _wide(bank_NxD)))
    here = Here.of(len(query))
    owners = here.owners(len(bank)) if sharded else ()
    (found,) = here.run(_nearest, (query,), (owners,), "r", shared=(bank, owners))
    return found


def own_is_largest(a_BxD: jax.Array, b_BxD: jax.Array) -> jax.Array:
    """Whether row i of `b` has the largest inner product with row i of `a` among all rows: bool [B]."""
    a, b = jax.lax.stop_gradient((_wide(a_BxD), _wide(b_BxD)))
    (found,) = Here.of(len(a)).run(_own_is_largest, (a, b), (), "r")
    return found


class _Kind:
    """A loss of pairs: the weights of its entropies by row and by column, or the sigmoid loss."""

    def __init__(self, rows: float, columns: float, sigmoid: bool = False):
        self.rows, self.columns, self.sigmoid = rows, columns, sigmoid


# One instance each: custom_vjp takes them as static arguments.
_both, _rows, _sigmoid = _Kind(0.5, 0.5), _Kind(1.0, 0.0), _Kind(1.0, 0.0, sigmoid=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _contrast(a: jax.Array, b: jax.Array, factors: Sums, kind: _Kind) -> jax.Array:
    return _forward(a, b, factors, kind)[0]


def _forward(a: jax.Array, b: jax.Array, factors: Sums, kind: _Kind) -> tuple[jax.Array, Any]:
    if a.shape != b.shape:
        raise ValueError(f"rows of shape {a.shape} do not pair with rows of shape {b.shape}")
    here = Here.of(len(a))
    if kind.sigmoid:
        sums = here.run(_sigmoid_sum, (a, b), factors, "-")
        return sums[0] / len(a), (a, b, factors, sums)
    sums = here.run(_log_sums, (a, b), (*factors, bool(kind.columns)), "r--")
    row, column, match = sums
    loss = kind.rows * row.mean() + kind.columns * column.mean() - match / len(a)
    return loss, (a, b, factors, sums)


def _backward(kind: _Kind, kept: Any, cotangent: jax.Array) -> tuple:
    a, b, factors, sums = kept
    here, share = Here.of(len(a)), cotangent / len(a)
    if kind.sigmoid:
        da, db, *rest = here.run(_sigmoid_gradient, (a, b), (*factors, share), "rr--")
    else:
        weights = kind.rows, kind.columns
        row, column, _ = sums
        more = (*factors, share, column, weights)
        da, db, *rest = here.run(_gradient, (a, b, row), more, "rr-")
    return da, db, tuple(rest)


_contrast.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class Here:
    """The devices that share the rows: a mesh and its axes, or none. The methods are for one device's part."""

    mesh: Any = None
    axes: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: int) -> "Here":
        """Over all devices of the mesh in use, if they divide the rows, else over those that share a batch."""
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1 or set(AXES) - set(mesh.axis_names):
            return cls()
        for axes in (AXES, BATCH_AXES):
            parts = math.prod(mesh.shape[axis] for axis in axes)
            if parts > 1 and rows % parts == 0:
                return cls(mesh, axes)
        return cls()

    def owners(self, rows: int) -> tuple[str, ...]:
        """The axes over which rows of another array are stored: fsdp, if it is in use and divides them."""
        parts = self.mesh.shape["fsdp"] if "fsdp" in self.axes else 1
        return ("fsdp",) if parts > 1 and rows % parts == 0 else ()

    def run(
        self,
        part: Callable[..., Any],
        rows: Sums,
        more: tuple,
        made: str,
        shared: tuple[jax.Array, tuple[str, ...]] | None = None,
    ) -> tuple[jax.Array, ...]:
        """`part` of each device's share of `rows`, then of `shared`, an array that is stored over axes, and of `more`.

        `made` has a letter for each result: "r" if it is by row, "-" if all devices have the same.
        """
        arrays = tuple(x for x in more if isinstance(x, jax.Array))
        plain = tuple(x for x in more if not isinstance(x, jax.Array))
        split, whole = PartitionSpec(self.axes), PartitionSpec()
        specs = [split] * len(rows)
        if shared is not None:
            rows, specs = (*rows, shared[0]), [*specs, PartitionSpec(shared[1])]

        def local(rows: Sums, arrays: Sums) -> tuple[jax.Array, ...]:
            return part(self, *rows, *arrays, *plain)

        if not self.axes:
            return local(rows, arrays)
        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(tuple(specs), (whole,) * len(arrays)),
            out_specs=tuple(split if one == "r" else whole for one in made),
            check_vma=False,
        )(rows, arrays)

    def gathered(self, x: jax.Array) -> jax.Array:
        """The rows of all devices."""
        return jax.lax.all_gather(x, self.axes, tiled=True) if self.axes else x

    def scattered(self, x: jax.Array) -> jax.Array:
        """The sum over devices of an array by all rows; each device gets that of its own."""
        return jax.lax.psum_scatter(x, self.axes, tiled=True) if self.axes else x

    def summed(self, x: jax.Array) -> jax.Array:
        """The sum over devices."""
        return jax.lax.psum(x, self.axes) if self.axes else x

    def largest(self, x: jax.Array) -> jax.Array:
        """The maximum over devices."""
        return jax.lax.pmax(x, self.axes) if self.axes else x

    def index(self, rows: int) -> jax.Array:
        """The indices in the batch of this device's rows."""
        first = jax.lax.axis_index(self.axes) * rows if self.axes else 0
        return first + jnp.arange(rows)


# The loops over the chunks of one device.


def _log_sums(here: "Here", a: jax.Array, b: jax.Array, scale: jax.Array, columns: bool) -> Sums:
    """log sum exp of the logits by row [R] and by column [B], and the sum of the matching logits."""
    every = here.gathered(b)

    def chunk(carry: Any, rows: Sums):
        logits = _logits(rows[0], every, scale)
        row = jax.nn.logsumexp(logits, axis=1)
        if columns:
            top, total = carry
            new = jnp.maximum(top, logits.max(axis=0))
            total = total * jnp.exp(top - new) + jnp.exp(logits - new[None]).sum(axis=0)
            carry = new, total
        return carry, row

    start = jnp.full(len(every), -jnp.inf, a.dtype), jnp.zeros(len(every), a.dtype)
    (top, total), row = _loop(chunk, start, (a,), len(every))
    match = here.summed(scale * jnp.sum(a * b))
    if not columns:
        return row, jnp.zeros(len(every), a.dtype), match
    most = here.largest(top)
    return row, most + jnp.log(here.summed(total * jnp.exp(top - most))), match


def _gradient(
    here: "Here",
    a: jax.Array,
    b: jax.Array,
    row: jax.Array,
    scale: jax.Array,
    share: jax.Array,
    column: jax.Array,
    weights: tuple[float, float],
) -> Sums:
    """Gradients by a and b [R,D], and by the scale. `share` is that of a row's entropy."""
    every = here.gathered(b)

    def chunk(db: jax.Array, rows: Sums):
        a, row = rows
        logits = _logits(a, every, scale)
        by_row = weights[0] * jnp.exp(logits - row[:, None])
        by_column = weights[1] * jnp.exp(logits - column[None]) if weights[1] else 0.0
        return _apply(by_row + by_column, a, every, db)

    start = jnp.zeros_like(every)
    db, da = _loop(chunk, start, (a, row), len(every))
    da, db = da - b, here.scattered(db) - a
    return share * scale * da, share * scale * db, here.summed(share * jnp.sum(a * da))


def _sigmoid_sum(
    here: "Here", a: jax.Array, b: jax.Array, scale: jax.Array, bias: jax.Array
) -> Sums:
    """The sum of the entropies of all pairs."""
    every = here.gathered(b)

    def chunk(total: jax.Array, rows: Sums):
        a, index = rows
        logits = _logits(a, every, scale) + bias
        sign = _sign(index, len(every), logits.dtype)
        return total + jax.nn.softplus(sign * logits).sum(), ()

    start = jnp.zeros((), a.dtype)
    total, _ = _loop(chunk, start, (a, here.index(len(a))), len(every))
    return (here.summed(total),)


def _sigmoid_gradient(
    here: "Here",
    a: jax.Array,
    b: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    share: jax.Array,
) -> Sums:
    """Gradients by a and b [R,D], by the scale and by the bias. `share` is that of a pair's entropy."""
    every = here.gathered(b)

    def chunk(carry: Any, rows: Sums):
        db, dbias = carry
        a, index = rows
        sign = _sign(index, len(every), a.dtype)
        g = sign * jax.nn.sigmoid(sign * (_logits(a, every, scale) + bias))
        db, da = _apply(g, a, every, db)
        return (db, dbias + g.sum()), da

    start = (jnp.zeros_like(every), jnp.zeros((), a.dtype))
    (db, dbias), da = _loop(chunk, start, (a, here.index(len(a))), len(every))
    dscale = here.summed(share * jnp.sum(a * da))
    db = here.scattered(db)
    return share * scale * da, share * scale * db, dscale, here.summed(share * dbias)


def _nearest(
    _here: "Here", query: jax.Array, bank: jax.Array, owners: tuple[str, ...]
) -> tuple[jax.Array]:
    """Each query's nearest row of the bank [R,D], where a device holds the rows of its place along `owners`."""
    every = jax.lax.all_gather(query, owners, tiled=True) if owners else query

    def chunk(best: Sums, rows: Sums):
        value, index = best
        cosine = _product("nd,bd->nb", rows[0], every)
        place = jnp.argmax(cosine, axis=0)
        top = jnp.take_along_axis(cosine, place[None], axis=0)[0]
        # A later chunk wins only by a larger value, so the first of equal rows is found.
        better = top > value
        return (jnp.where(better, top, value), jnp.where(better, rows[1][place], index)), ()

    start = jnp.full(len(every), -jnp.inf, query.dtype), jnp.zeros(len(every), jnp.int32)
    count = len(bank)
    (value, index), _ = _loop(chunk, start, (bank, jnp.arange(count, dtype=jnp.int32)), len(every))
    if not owners:
        return (bank[index],)
    first = jax.lax.axis_index(owners) * count
    most = jax.lax.pmax(value, owners)
    # Among devices with equal values, the one with the first row answers.
    winner = jax.lax.pmin(jnp.where(value == most, first + index, jnp.iinfo(jnp.int32).max), owners)
    mine = (winner == first + index) & (value == most)
    rows = jnp.where(mine[:, None], bank[index], jnp.zeros((), bank.dtype))
    return (jax.lax.psum_scatter(rows, owners, tiled=True),)


def _own_is_largest(here: "Here", a: jax.Array, b: jax.Array) -> tuple[jax.Array]:
    every = here.gathered(b)

    def chunk(nothing: tuple, rows: Sums):
        return nothing, jnp.argmax(_product("cd,bd->cb", rows[0], every), axis=1) == rows[1]

    return (_loop(chunk, (), (a, here.index(len(a))), len(every))[1],)


def _apply(g: jax.Array, a: jax.Array, every: jax.Array, db: jax.Array) -> tuple[Any, Any]:
    """Gradients by the cosines of a chunk, g [C,B], carried to the columns (added to `db`) and to the rows."""
    return db + _product("cb,cd->bd", g, a), _product("cb,bd->cd", g, every)


def _sign(index: jax.Array, count: int, dtype: Any) -> jax.Array:
    """-1 where the row of a chunk belongs to the column, 1 elsewhere [C,count]."""
    return jnp.where(index[:, None] == jnp.arange(count)[None], -1, 1).astype(dtype)


def _logits(a: jax.Array, b: jax.Array, scale: jax.Array) -> jax.Array:
    return scale * _product("cd,bd->cb", a, b)


def _product(form: str, x: jax.Array, y: jax.Array) -> jax.Array:
    # The default precision on TPUs would round the cosines, multiplied by up to 100, to bfloat16.
    return jnp.einsum(form, x, y, precision="highest")


def _wide(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _loop(
    chunk: Callable[[Any, Sums], tuple[Any, Any]], start: Any, arrays: Sums, columns: int
) -> tuple[Any, Any]:
    """Scan over chunks of the arrays' rows; what `chunk` gives by row is joined again."""
    rows = len(arrays[0])
    parts = -(-rows // max(1, CHUNK // columns))
    size = -(-rows // parts)
    if parts == 1:
        return chunk(start, arrays)
    # Equal chunks, and a smaller one at the end where they do not divide the rows.
    whole = rows // size * size
    split = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), arrays)
    carry, made = jax.lax.scan(chunk, start, split)
    made = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), made)
    if whole == rows:
        return carry, made
    carry, last = chunk(carry, jax.tree.map(lambda x: x[whole:], arrays))
    return carry, jax.tree.map(lambda *both: jnp.concatenate(both), made, last)
