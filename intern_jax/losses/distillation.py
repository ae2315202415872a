"""Losses of a student by one or several teachers, one value per image [B] in at least float32.

The caller weighs the values and takes their mean. No gradient reaches what a teacher gives. Both sides have the same
shape, or a ValueError says so. Legend: B batch, h, w map size, D channels, K classes, T teachers.
"""

import jax
import jax.numpy as jnp

from intern_jax.losses.classification import NEVER
from intern_jax.losses.detection import smooth_l1

# Below this length a vector has no direction: the gradient of a cosine grows as one over the length.
SHORT = 1e-6


# --- features -------------------------------------------------------------------------------------


def cosine_and_smooth_l1(
    predicted: jax.Array, target: jax.Array, share: float = 0.5, valid: jax.Array | None = None
) -> jax.Array:
    """share (1 - cos) + (1 - share) smooth L1 of vectors [B,D] or maps [B,h,w,D]: [B], the mean over positions.

    `valid` (bool [B,h,w], None: all) says which positions count.
    Smooth L1 has beta 1 and is the mean over channels. UNIC (arXiv 2408.05088) and DUNE (arXiv 2503.14405) use this
    form and the share 0.5, for targets of mean 0 and variance 1 per channel. If a vector is shorter than 1e-6, its
    cosine is 0 and gives no gradient. ValueError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; 0 to 1 is needed")
    predicted, target = _pair(predicted, target)
    apart = smooth_l1(predicted, target).mean(axis=-1)
    return _mean(share * (1 - _cosine(predicted, target)) + (1 - share) * apart, valid)


def hint(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Half the squared distance of a prediction [B,...] from a teacher's features [B,...]: [B], summed.

    It is the hint of FitNets (arXiv 1412.6550). `predicted` is what a regressor makes of the student's features.
    """
    return 0.5 * _square(predicted, target)


def mgd(generated: jax.Array, target: jax.Array) -> jax.Array:
    """The squared distance of a generated map [B,h,w,D] from a teacher's [B,h,w,D]: [B], summed.

    It is masked generative distillation (arXiv 2205.01529) without its weight. The authors' code weighs this sum by
    2e-5 for detection and segmentation, and by 7e-5 for classification.
    """
    return _square(generated, target)


# --- logits ---------------------------------------------------------------------------------------


def soft_cross_entropy(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: float = 1.0,
    classes: jax.Array | None = None,
) -> jax.Array:
    """T^2 KL(softmax(t / T) || softmax(s / T)) of logits [B,...,K]: [B], the mean over positions.

    T is the temperature (Hinton et al., arXiv 1503.02531). The cross-entropy with the teacher's soft labels is larger
    by the teacher's entropy, which has no gradient. Classes where `classes` (bool, [K] or [B,...,K]) is false are no
    candidates on either side: their logits, NaN included, change nothing. ValueError unless the temperature is
    positive.
    """
    student, teacher = _cooled(student_logits, teacher_logits, temperature)
    if classes is not None:
        classes = jnp.broadcast_to(classes, student.shape)
        student, teacher = (jnp.where(classes, x, NEVER) for x in (student, teacher))
    log_student, log_teacher = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    apart = jnp.exp(log_teacher) * (log_teacher - log_student)
    return temperature**2 * _mean(apart.sum(axis=-1))


def soft_binary(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: float = 1.0,
    classes: jax.Array | None = None,
) -> jax.Array:
    """T^2 KL of independent classes, sigmoid(t / T) from sigmoid(s / T), for logits [B,...,K]: [B].

    It is for the class maps of detectors. A sum over positions and classes is divided by the teacher's soft number of
    foreground positions, but at least by 1. That number is the sum over positions of the squared probability of the
    likeliest class, at temperature 1. The square is our choice: thousands of background positions of 0.01 do not add up
    to objects. The divisor is per image and does not depend on the student. `classes` and errors are those of
    `soft_cross_entropy`.
    """
    student, teacher = _cooled(student_logits, teacher_logits, temperature)
    asked = jnp.ones(student.shape, bool)
    if classes is not None:
        asked = jnp.broadcast_to(classes, student.shape)
    # Where both are 0 they agree, and no gradient meets what is not asked.
    student, teacher = (jnp.where(asked, x, 0.0) for x in (student, teacher))
    log, share = jax.nn.log_sigmoid, jax.nn.sigmoid
    there = share(teacher) * (log(teacher) - log(student))
    absent = share(-teacher) * (log(-teacher) - log(-student))
    likeliest = jnp.where(asked, share(teacher * temperature), 0.0).max(axis=-1)
    foreground = _sum(jnp.square(likeliest))
    return temperature**2 * _sum(there + absent) / jnp.maximum(foreground, 1.0)


# --- several teachers -----------------------------------------------------------------------------


def keep_worst(losses_TxB: jax.Array, key: jax.Array, probability: float = 0.5) -> jax.Array:
    """Coefficients [T,B], 1 or 0, of teachers' losses: teacher dropping of UNIC (arXiv 2408.05088).

    An image always keeps its largest loss, and each of the others with the `probability`. Among equal losses the
    first teacher's is the largest. No gradient flows through the coefficients. The draw is for a rank, and not for a
    teacher. How many losses an image keeps (`kept_ranks`) then does not depend on the losses. UNIC draws for teachers,
    which gives the same distribution.
    """
    teachers, images = losses_TxB.shape
    kept = kept_ranks(key, teachers, images, probability)
    losses = jax.lax.stop_gradient(_wide(losses_TxB))
    order = jnp.argsort(-losses, axis=0, stable=True)
    rank = jnp.argsort(order, axis=0)
    return jnp.take_along_axis(kept, rank, axis=0).astype(losses.dtype)


def kept_ranks(key: jax.Array, teachers: int, images: int, probability: float = 0.5) -> jax.Array:
    """Which ranks of the losses, in descending order, `keep_worst` keeps per image with this key: bool [T,B].

    Its sum is the count of the kept losses. The count of a loss term must not depend on parameters: accumulation
    computes it apart from the losses (train/step.py). ValueError for a probability outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}; 0 to 1 is needed")
    kept = jax.random.bernoulli(key, probability, (teachers, images))
    return kept.at[0].set(True)


# --- what they share ------------------------------------------------------------------------------


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _pair(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    if student.shape != teacher.shape:
        raise ValueError(f"a student's {student.shape} does not fit a teacher's {teacher.shape}")
    return _wide(student), jax.lax.stop_gradient(_wide(teacher))


def _cooled(
    student: jax.Array, teacher: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    student, teacher = _pair(student, teacher)
    return student / temperature, teacher / temperature


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """[...] of [...,D]; 0, with a gradient of 0, where a side is shorter than SHORT."""
    square_a, square_b = (jnp.square(x).sum(axis=-1) for x in (a, b))
    there = jnp.minimum(square_a, square_b) > SHORT**2
    # The roots are of 1 there: a gradient of 0 times infinity would be NaN.
    inverse_a, inverse_b = (jax.lax.rsqrt(jnp.where(there, x, 1.0)) for x in (square_a, square_b))
    return jnp.where(there, (a * b).sum(axis=-1) * inverse_a * inverse_b, 0.0)


def _square(predicted: jax.Array, target: jax.Array) -> jax.Array:
    predicted, target = _pair(predicted, target)
    return _sum(jnp.square(predicted - target))


def _sum(x: jax.Array) -> jax.Array:
    """[B]: the sum of [B,...] over all axes but the first."""
    return x.sum(axis=tuple(range(1, x.ndim)))


def _mean(x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """[B]: the mean of [B,...] over all axes but the first, where `valid`; 0 where nothing is."""
    if valid is None:
        return x.mean(axis=tuple(range(1, x.ndim)))
    count = _sum(valid.astype(x.dtype))
    return _sum(jnp.where(valid, x, 0)) / jnp.maximum(count, 1)
