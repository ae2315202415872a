"""Dense self-supervision: what every position of a map says about the picture at its place.

Legend: B batch, h, w positions of a map, K prototypes, C channels.
"""

import jax
import jax.numpy as jnp

from intern_jax.core.averages import Average, mean
from intern_jax.losses.contrastive import unit


def patch_distillation(
    student_BxhxwxK: jax.Array,
    teacher_BxhxwxK: jax.Array,
    centre_K: jax.Array,
    valid_Bxhxw: jax.Array | None = None,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.05,
) -> Average:
    """The mean over positions of the cross-entropy between the teacher's and the student's prototypes.

    -sum_k softmax((t - centre) / teacher_temperature)_k log softmax(s / student_temperature)_k, by row. iBOT's patch
    loss (arXiv 2111.07832, eq. 2), taken over masked and visible positions alike as in TIPSv2 (2604.12012). No gradient
    flows to the teacher. `valid` (None: all) leaves positions out of the mean.
    """
    student, teacher = (
        x.astype(jnp.promote_types(x.dtype, jnp.float32))
        for x in (student_BxhxwxK, teacher_BxhxwxK)
    )
    centred = jax.lax.stop_gradient(teacher - centre_K[None, None, None].astype(teacher.dtype))
    target = jax.nn.softmax(centred / teacher_temperature)
    entropy = -jnp.sum(target * jax.nn.log_softmax(student / student_temperature), axis=-1)
    return mean(entropy, valid_Bxhxw)


def gram_distance(map_BxhxwxC: jax.Array, anchor_BxhxwxC: jax.Array) -> Average:
    """Gram anchoring (DINOv3, arXiv 2508.10104): the mean square of the change of all cosines between two positions.

    No gradient flows to the anchor's map; its number of channels may differ.
    """
    student, anchor = (
        unit(x.reshape(len(x), -1, x.shape[-1])) for x in (map_BxhxwxC, anchor_BxhxwxC)
    )
    anchor = jax.lax.stop_gradient(anchor)
    change = jnp.einsum("bic,bjc->bij", student, student, precision="highest") - jnp.einsum(
        "bic,bjc->bij", anchor, anchor, precision="highest"
    )
    return mean((change * change).mean((1, 2)))


def seen_from(
    map_BxhxwxK: jax.Array,
    window_Bx4: jax.Array,
    flip_B: jax.Array,
    other_window_Bx4: jax.Array,
    other_flip_B: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """A view's map at the positions of another view [B,h,w,K], interpolated, and where that is inside it [B,h,w].

    Windows are (x1, y1, x2, y2) of the views, in fractions of the picture; a flipped view is mirrored left-right.
    The other view's map has the same number of positions.
    """
    height, width = map_BxhxwxK.shape[1:3]
    dtype = window_Bx4.dtype

    def centres(count: int) -> jax.Array:
        return (jnp.arange(count, dtype=dtype) + 0.5) / count

    def mirrored(x: jax.Array, flip: jax.Array) -> jax.Array:
        return jnp.where(flip[:, None], 1 - x, x)

    def to_picture(place: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
        return low[:, None] + place * (high - low)[:, None]

    def to_view(place: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
        return (place - low[:, None]) / (high - low)[:, None]

    rows = len(map_BxhxwxK)
    across = jnp.broadcast_to(centres(width)[None], (rows, width))
    down = jnp.broadcast_to(centres(height)[None], (rows, height))
    (left, top, right, bottom), (low_x, low_y, high_x, high_y) = other_window_Bx4.T, window_Bx4.T
    x = to_view(to_picture(mirrored(across, other_flip_B), left, right), low_x, high_x)
    x = mirrored(x, flip_B)
    y = to_view(to_picture(down, top, bottom), low_y, high_y)
    inside = ((y >= 0) & (y <= 1))[:, :, None] & ((x >= 0) & (x <= 1))[:, None, :]
    wide = map_BxhxwxK.astype(jnp.promote_types(map_BxhxwxK.dtype, jnp.float32))
    found = jnp.einsum("byh,bhwk->bywk", _weights(y, height).astype(wide.dtype), wide)
    found = jnp.einsum("bxw,bywk->byxk", _weights(x, width).astype(wide.dtype), found)
    return found, inside


def _weights(place: jax.Array, count: int) -> jax.Array:
    """Linear interpolation [B,n,count] at places [B,n] in 0..1 among positions whose centres are (i + .5) / count."""
    at = jnp.clip(place * count - 0.5, 0, count - 1)
    return jnp.maximum(
        1 - jnp.abs(at[..., None] - jnp.arange(count, dtype=at.dtype)[None, None]), 0
    )
