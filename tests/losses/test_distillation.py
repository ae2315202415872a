"""Losses of distillation against numpy in float64, with their gradients; which teachers an image keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.losses import distillation

EXACT = {"rtol": 1e-9, "atol": 1e-9}
pytestmark = pytest.mark.usefixtures("in_float64")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def value_and_gradients(loss, student, teacher, weights):
    """The loss per image, and the gradients of its weighted sum by both sides."""
    arrays = jnp.asarray(student), jnp.asarray(teacher)
    total = lambda *sides: (loss(*sides) * weights).sum()  # noqa: E731
    return np.asarray(jax.jit(loss)(*arrays)), *jax.jit(jax.grad(total, (0, 1)))(*arrays)


def check(loss, student, teacher, expected, gradient, rng):
    """`expected` [B] and the student's `gradient` for the unweighted sum hold; the teacher gets none."""
    weights = rng.uniform(0.5, 2, len(student))
    value, by_student, by_teacher = value_and_gradients(loss, student, teacher, weights)
    assert value.shape == (len(student),) and value.dtype == np.float64
    np.testing.assert_allclose(value, expected, **EXACT)
    rows = weights.reshape((-1,) + (1,) * (student.ndim - 1))
    np.testing.assert_allclose(by_student, rows * gradient, **EXACT)
    assert not np.asarray(by_teacher).any()


# --- features -------------------------------------------------------------------------------------


def cosine_and_smooth_l1(s, t, share):
    """(value [B], gradient) by the formulas, image by image and position by position."""
    value, gradient = np.zeros(len(s)), np.zeros_like(s)
    for place in np.ndindex(s.shape[:-1]):
        a, b = s[place], t[place]
        norms = np.sqrt((a**2).sum()) * np.sqrt((b**2).sum())
        cosine = (a * b).sum() / norms
        apart = np.abs(a - b)
        smooth = np.where(apart < 1, (a - b) ** 2 / 2, apart - 0.5).mean()
        positions = np.prod(s.shape[1:-1])
        value[place[0]] += (share * (1 - cosine) + (1 - share) * smooth) / positions
        by_cosine = b / norms - cosine * a / (a**2).sum()
        by_smooth = np.clip(a - b, -1, 1) / a.size
        gradient[place] = (-share * by_cosine + (1 - share) * by_smooth) / positions
    return value, gradient


@pytest.mark.medium
@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 2, 6)])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_cosine_and_smooth_l1(rng, shape, share):
    s, t = rng.normal(size=(2, *shape)) * 1.5
    expected, gradient = cosine_and_smooth_l1(s, t, share)
    loss = lambda a, b: distillation.cosine_and_smooth_l1(a, b, share)  # noqa: E731
    check(loss, s, t, expected, gradient, rng)
    np.testing.assert_allclose(loss(t, t), 0, atol=1e-12)


@pytest.mark.parametrize("length", [0.0, 1e-200, 1e-9])
@pytest.mark.parametrize("side", [0, 1])
def test_a_vector_without_direction_has_cosine_0_and_no_gradient_from_it(rng, length, side):
    pair = rng.normal(size=(2, 3, 4))
    pair[side, 1] *= length
    loss = lambda s, t: distillation.cosine_and_smooth_l1(s, t, 1.0)  # noqa: E731
    value, gradient, _ = value_and_gradients(loss, *pair, np.ones(3))
    assert value[1] == 1 and not gradient[1].any()
    assert np.isfinite(gradient).all() and np.abs(gradient[0]).min() > 0
    half = lambda s, t: distillation.cosine_and_smooth_l1(s, t)  # noqa: E731
    _, gradient, _ = value_and_gradients(half, *pair, np.ones(3))
    expected = np.clip(pair[0, 1] - pair[1, 1], -1, 1) / 4 / 2
    np.testing.assert_allclose(gradient[1], expected, **EXACT)


def test_short_vectors_keep_their_cosine_down_to_the_bound(rng):
    s, t = rng.normal(size=(2, 3, 4))
    unit = s / np.sqrt((s**2).sum(axis=1, keepdims=True))
    found = distillation.cosine_and_smooth_l1(jnp.asarray(unit * 1.01e-6), jnp.asarray(t), 1.0)
    expected = 1 - (unit * t).sum(axis=1) / np.sqrt((t**2).sum(axis=1))
    np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.parametrize("shape", [(4, 6), (3, 5, 2, 6)])
def test_hint_and_mgd_are_sums_of_squares(rng, shape):
    s, t = rng.normal(size=(2, *shape))
    squares = np.array([np.linalg.norm(row) ** 2 for row in (s - t).reshape(len(s), -1)])
    check(distillation.hint, s, t, squares / 2, s - t, rng)
    check(distillation.mgd, s, t, squares, 2 * (s - t), rng)


# --- logits ---------------------------------------------------------------------------------------


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


@pytest.mark.medium
@pytest.mark.parametrize("shape", [(4, 5), (3, 2, 4, 5), (3, 6, 5)])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
@pytest.mark.parametrize("classes", [None, [True, False, True, True, False]])
def test_soft_cross_entropy(rng, shape, temperature, classes):
    s, t = rng.normal(size=(2, *shape)) * 3
    asked = np.ones(5, bool) if classes is None else np.array(classes)
    p, q = (softmax(x[..., asked] / temperature) for x in (t, s))
    positions = np.prod(shape[1:-1])
    each = temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=-1)
    expected = each.reshape(len(s), -1).sum(axis=1) / positions
    gradient = np.zeros(shape)
    gradient[..., asked] = temperature * (q - p) / positions
    if classes is not None:
        s[..., ~asked], t[..., ~asked] = np.nan, 1e6
    mask = None if classes is None else jnp.asarray(asked)
    loss = lambda a, b: distillation.soft_cross_entropy(a, b, temperature, mask)  # noqa: E731
    check(loss, s, t, expected, gradient, rng)
    np.testing.assert_allclose(loss(jnp.asarray(t), jnp.asarray(t)), 0, atol=1e-12)


def test_candidates_may_differ_between_images(rng):
    s, t = rng.normal(size=(2, 3, 5))
    asked = rng.random((3, 5)) < 0.5
    asked[:, 0], asked[2] = True, False
    found = distillation.soft_cross_entropy(jnp.asarray(s), jnp.asarray(t), 2.0, jnp.asarray(asked))
    for row in range(2):
        p, q = (softmax(x[row, asked[row]] / 2) for x in (t, s))
        np.testing.assert_allclose(found[row], 4 * (p * np.log(p / q)).sum(), **EXACT)
    assert found[2] == 0  # no class is a candidate


@pytest.mark.medium
@pytest.mark.parametrize("shape", [(4, 3), (3, 7, 3), (2, 4, 5, 3)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("classes", [None, [True, False, True]])
def test_soft_binary(rng, shape, temperature, classes):
    s, t = rng.normal(size=(2, *shape)) * 3
    t[0] -= 9  # an image without foreground: the divisor is 1
    asked = np.ones(3, bool) if classes is None else np.array(classes)
    expected, gradient = np.zeros(len(s)), np.zeros(shape)
    for row, (a, b) in enumerate(zip(s[..., asked], t[..., asked], strict=True)):
        p, q = (1 / (1 + np.exp(-x / temperature)) for x in (b, a))
        apart = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        likeliest = (1 / (1 + np.exp(-b))).max(axis=-1)
        divisor = max((likeliest**2).sum(), 1)
        assert (divisor == 1) == (row == 0 or len(shape) == 2)
        expected[row] = temperature**2 * apart.sum() / divisor
        gradient[row][..., asked] = temperature * (q - p) / divisor
    if classes is not None:
        s[..., ~asked], t[..., ~asked] = np.nan, 50.0
    mask = None if classes is None else jnp.asarray(asked)
    loss = lambda a, b: distillation.soft_binary(a, b, temperature, mask)  # noqa: E731
    check(loss, s, t, expected, gradient, rng)
    assert not loss(jnp.asarray(t), jnp.asarray(t)).any()


def test_extreme_logits_stay_finite():
    s, t = jnp.asarray([[[800.0, -800.0]]]), jnp.asarray([[[-800.0, 800.0]]])
    for loss in (distillation.soft_cross_entropy, distillation.soft_binary):
        value, gradient, _ = value_and_gradients(loss, s, t, np.ones(1))
        assert np.isfinite(value).all() and value[0] > 700 and np.isfinite(gradient).all()


# --- all of them ----------------------------------------------------------------------------------

LOSSES = (
    distillation.cosine_and_smooth_l1,
    distillation.hint,
    distillation.mgd,
    distillation.soft_cross_entropy,
    distillation.soft_binary,
)


@pytest.mark.medium
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_narrow_inputs_are_computed_in_float32(rng, loss):
    s, t = jnp.asarray(rng.normal(size=(2, 3, 4, 6)), jnp.bfloat16)
    value = loss(s, t)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, loss(s.astype(jnp.float32), t.astype(jnp.float32)))
    assert jax.grad(lambda s: loss(s, t).sum())(s).dtype == jnp.bfloat16


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_other_shapes_are_refused(loss):
    with pytest.raises(ValueError, match=r"\(3, 4, 4, 6\) does not fit .* \(3, 1, 1, 6\)"):
        loss(jnp.ones((3, 4, 4, 6)), jnp.ones((3, 1, 1, 6)))


def test_settings_outside_their_range_are_refused():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="share"):
        distillation.cosine_and_smooth_l1(x, x, 1.1)
    for loss in (distillation.soft_cross_entropy, distillation.soft_binary):
        with pytest.raises(ValueError, match="temperature"):
            loss(x, x, 0.0)
    with pytest.raises(ValueError, match="probability"):
        distillation.keep_worst(x, jax.random.key(0), -0.1)


# --- several teachers -----------------------------------------------------------------------------


def test_the_worst_is_always_kept_and_others_with_the_probability(rng):
    losses = jnp.asarray(rng.random((4, 8)))
    keys = jax.random.split(jax.random.key(0), 4000)
    for probability in (0.0, 0.3, 0.5, 1.0):
        keep = jax.vmap(lambda key, p=probability: distillation.keep_worst(losses, key, p))
        kept = np.asarray(jax.jit(keep)(keys))
        assert kept.shape == (4000, 4, 8) and kept.dtype == np.float64
        assert set(np.unique(kept)) <= {0.0, 1.0}
        worst = np.asarray(losses).argmax(axis=0)
        assert kept[:, worst, np.arange(8)].all()
        others = np.ones((4, 8), bool)
        others[worst, np.arange(8)] = False
        bound = 5 * np.sqrt(probability * (1 - probability) / 4000)
        assert (abs(kept.mean(axis=0)[others] - probability) <= bound).all()
        # One and a binomial number of the three others.
        counts = kept.sum(axis=1).ravel()
        for more, ways in enumerate((1, 3, 3, 1)):
            expected = ways * probability**more * (1 - probability) ** (3 - more)
            bound = 5 * np.sqrt(expected * (1 - expected) / counts.size)
            assert abs((counts == 1 + more).mean() - expected) <= bound


def test_how_many_are_kept_does_not_depend_on_the_losses(rng):
    key = jax.random.key(3)
    ranks = np.asarray(distillation.kept_ranks(key, 5, 100))
    assert ranks[0].all() and ranks.shape == (5, 100) and ranks.dtype == bool
    different = set()
    for _ in range(6):
        losses = rng.random((5, 100))
        kept = np.asarray(distillation.keep_worst(jnp.asarray(losses), key))
        np.testing.assert_array_equal(kept.sum(axis=0), ranks.sum(axis=0))
        different.add(kept.tobytes())
        for image in range(100):
            descending = sorted(range(5), key=lambda one: -losses[one, image])
            np.testing.assert_array_equal(kept[descending, image], ranks[:, image])
    assert len(different) == 6


def test_equal_losses_rank_in_the_order_of_the_teachers():
    losses = jnp.asarray([[1.0, 2.0, 0.0], [1.0, 5.0, 7.0], [1.0, 5.0, 7.0]])
    alone = distillation.keep_worst(losses, jax.random.key(0), 0.0)
    np.testing.assert_array_equal(alone, [[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    key = jax.random.key(1)
    equal = distillation.keep_worst(jnp.ones((4, 50)), key)
    np.testing.assert_array_equal(equal, distillation.kept_ranks(key, 4, 50))


def test_one_teacher_is_kept_and_coefficients_have_no_gradient(rng):
    losses = jnp.asarray(rng.random((3, 9)), jnp.float32)
    key = jax.random.key(0)
    assert distillation.keep_worst(losses[:1], key, 0.0).all()
    kept = distillation.keep_worst(losses, key)
    assert kept.dtype == jnp.float32
    gradient = jax.grad(lambda x: (distillation.keep_worst(x, key) * x).sum())(losses)
    np.testing.assert_array_equal(gradient, kept)
    half = distillation.keep_worst(losses.astype(jnp.bfloat16), key)
    assert half.dtype == jnp.float32
