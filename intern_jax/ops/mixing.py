"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of a batch, as timm has them, inside a train step.

Each row is mixed with another row of the same source (`partners_within`). `mix` draws how and does it; the loss of
both labels is that of losses/classification.py with `share`. `mixed` and `boxes` are the parts without a draw.
Legend: B batch, H height, W width, C channels, P number of equal contiguous parts of the batch.
"""

from typing import Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import pydantic

from intern_jax.core import schema
from intern_jax.core.schema import Settings, field

NOBODY = -1  # the source of rows that are not valid


class Mixing(Settings):
    """How rows are mixed. The defaults are those of DeiT (arXiv 2012.12877, Table 9).

    `mixup` and `cutmix` are alpha of the two: an own share is drawn from Beta(alpha, alpha), and 0 leaves one out. A
    row, or with `each` "batch" the whole batch, is mixed with `probability`. Where both are on, `switch_probability` is
    that of CutMix. `each` says whether a batch or a row has its own draws (timm's modes "batch" and "elem").
    """

    mixup: float = field(0.8, ge=0.0)
    cutmix: float = field(1.0, ge=0.0)
    probability: float = field(1.0, ge=0.0, le=1.0)
    switch_probability: float = field(0.5, ge=0.0, le=1.0)
    each: Literal["batch", "row"] = "batch"

    @pydantic.model_validator(mode="after")
    def _one_is_on(self) -> Self:
        if not (self.mixup or self.cutmix):
            raise schema.wrong("0 and cutmix too; give one of them above 0", "mixup")
        return self


class Draws(NamedTuple):
    """What is drawn of a row: the own share before CutMix's correction, the box's centre, and what is done.

    All are [B] or, where the batch shares them, [1]. `centre` is int32 [B,2]: row and column.
    """

    share: jax.Array
    centre: jax.Array
    cut: jax.Array  # bool: CutMix, else mixup


def partners_within(source: jax.Array, valid: jax.Array | None = None, parts: int = 1) -> jax.Array:
    """The partner of each row, int32 [B]: rows of one source (int [B]) in reverse order, as timm's flip of a batch.

    A row is its own partner where it is the middle one. Rows that are not `valid` (bool [B]) pair among themselves.
    Partners lie in one of `parts` equal parts of the batch: with one part per shard, no row leaves its device.
    """
    if valid is not None:
        source = jnp.where(valid, source, NOBODY)

    def one(own: jax.Array) -> jax.Array:
        order = jnp.argsort(own)  # stable: rows of a source stay in order
        run = own[order]
        first, after = (jnp.searchsorted(run, run, side) for side in ("left", "right"))
        return jnp.zeros_like(order).at[order].set(order[first + after - 1 - jnp.arange(own.size)])

    local = jax.vmap(one)(source.reshape(parts, -1))
    first = jnp.arange(parts)[:, None] * local.shape[1]
    return (first + local).reshape(-1).astype(jnp.int32)


def mix(
    key: jax.Array, images: jax.Array, partners: jax.Array, cfg: Mixing, parts: int = 1
) -> tuple[jax.Array, jax.Array]:
    """(mixed images, share): each row of `images` (float [B,H,W,C]) mixed with the row `partners` (int32 [B]) of it.

    `share` (float32 [B]) is the weight of the row's own label. The result depends on the key and the rows, and on no
    sharding. `parts` is that of `partners_within`.
    """
    rows, height, width, _ = images.shape
    return mixed(images, partners, draw(key, rows, height, width, cfg), parts)


def draw(key: jax.Array, rows: int, height: int, width: int, cfg: Mixing) -> Draws:
    """The draws of a batch of `rows` pictures of so many pixels."""
    count = rows if cfg.each == "row" else 1
    keys = jax.random.split(key, 6)
    if cfg.mixup and cfg.cutmix:
        cut = jax.random.bernoulli(keys[0], cfg.switch_probability, (count,))
    else:
        cut = jnp.full(count, bool(cfg.cutmix))
    of_mixup, of_cutmix = (
        jax.random.beta(k, alpha, alpha, (count,)) if alpha else jnp.ones(count)
        for k, alpha in zip(keys[1:3], (cfg.mixup, cfg.cutmix), strict=True)
    )
    done = jax.random.bernoulli(keys[3], cfg.probability, (count,))
    share = jnp.where(done, jnp.where(cut, of_cutmix, of_mixup), 1.0)
    sides = zip(keys[4:], (height, width), strict=True)
    centre = [jax.random.randint(k, (count,), 0, side) for k, side in sides]
    drawn = Draws(share, jnp.stack(centre, axis=1), cut)
    if jax.sharding.get_abstract_mesh().empty:
        return drawn
    # Every device draws for all rows. Shared out, each try of Beta's rejection sampling would be an all-reduce.
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, jax.P()), drawn)


def mixed(
    images: jax.Array, partners: jax.Array, drawn: Draws, parts: int = 1
) -> tuple[jax.Array, jax.Array]:
    """(mixed images, share) of given draws; the arguments are those of `mix`."""
    rows, height, width, _ = images.shape
    top, bottom, left, right = boxes(drawn.share, drawn.centre, height, width)
    area = (bottom - top) * (right - left)
    share = jnp.where(drawn.cut, 1.0 - area / (height * width), drawn.share)
    y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    top, bottom, left, right = (side[:, None, None] for side in (top, bottom, left, right))
    inside = (top <= y) & (y < bottom) & (left <= x) & (x < right)
    # A pixel's own share: 0 or 1 of CutMix, the same everywhere of mixup.
    own = jnp.where(drawn.cut[:, None, None], ~inside, share[:, None, None])[..., None]
    own = own.astype(images.dtype)
    result = images * own + taken(images, partners, parts) * (1 - own)
    return result, jnp.broadcast_to(share, (rows,))


def boxes(
    share: jax.Array, centre: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(top, bottom, left, right), int32 of share's shape: CutMix's box around `centre`, cut off at the borders.

    Before that, its sides are sqrt(1 - share) of the picture's, in whole pixels.
    """
    ratio = jnp.sqrt(1.0 - share)
    found = []
    for axis, side in enumerate((height, width)):
        length = (side * ratio).astype(jnp.int32)
        found.append(jnp.clip(centre[:, axis] - length // 2, 0, side))
        found.append(jnp.clip(centre[:, axis] + (length + 1) // 2, 0, side))
    top, bottom, left, right = found
    return top, bottom, left, right


def taken(rows: jax.Array, partners: jax.Array, parts: int = 1) -> jax.Array:
    """The partner of each row [B,...]; in blocks, which GSPMD leaves where they are."""
    size = rows.shape[0] // parts
    blocks = rows.reshape(parts, size, *rows.shape[1:])
    local = partners.reshape(parts, size) - jnp.arange(parts)[:, None] * size
    return jax.vmap(lambda block, place: block[place])(blocks, local).reshape(rows.shape)
