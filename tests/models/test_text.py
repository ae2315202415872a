"""The text tower: what reaches the end-of-text token, and CLIP's initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from metanet_fixture import flat, quick_jit

from intern_jax.core.config import UserError
from intern_jax.models.text import TextTransformer

TOWER = TextTransformer(vocab_size=50, context=12, width=16, layers=2, heads=2, out_dim=8)
END = 49


@pytest.fixture(scope="module")
def tree():
    tokens = jnp.zeros((1, 12), jnp.int32)
    return meta.unbox(quick_jit(TOWER.init)(jax.random.key(0, impl="rbg"), tokens))


@pytest.fixture(scope="module")
def embed(tree):
    return quick_jit(lambda tokens: TOWER.apply(tree, tokens))


def _row(ids, length):
    return jnp.asarray([ids + [0] * (length - len(ids))], jnp.int32)


def test_padding_changes_nothing(embed):
    ids = [48, 3, 7, END]
    short, long = embed(_row(ids, 4)), embed(_row(ids, 12))
    assert short.shape == (1, 8)
    np.testing.assert_allclose(short, long, rtol=1e-5, atol=1e-6)
    # ... nor does anything else that comes after the end of the text.
    after = embed(_row(ids, 12).at[0, 5:].set(jnp.arange(1, 8)))
    np.testing.assert_allclose(after, long, rtol=1e-5, atol=1e-6)


def test_every_word_and_its_place_count(embed):
    base = embed(_row([48, 3, 7, END], 12))
    for ids in ([48, 4, 7, END], [48, 7, 3, END], [48, 3, 7, 7, END]):
        assert np.abs(np.asarray(embed(_row(ids, 12)) - base)).max() > 1e-3


def test_words_see_only_what_comes_before(tree):
    words = quick_jit(lambda tokens: TOWER.apply(tree, tokens, method=TextTransformer.words))
    one, other = words(_row([48, 3, 7, END], 6)), words(_row([48, 3, 8, END], 6))
    assert one.shape == (1, 6, 16)
    np.testing.assert_allclose(one[:, :2], other[:, :2], rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(one - other)[:, 2:]).min(axis=-1).max() > 0


def test_a_word_that_the_mask_hides_changes_no_later_one(tree):
    @quick_jit
    def embed(tokens, mask):
        return TOWER.apply(tree, tokens, mask)

    one, other = _row([48, 3, 7, END], 6), _row([48, 9, 7, END], 6)
    hidden = jnp.ones((1, 6), bool).at[0, 1].set(False)
    np.testing.assert_allclose(embed(one, hidden), embed(other, hidden), rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(embed(one, hidden | True) - embed(other, hidden | True))).max() > 1e-3


def test_initialised_as_clip():
    tower = TextTransformer(vocab_size=500, context=77, width=64, layers=3, heads=4, out_dim=64)
    tokens = jnp.zeros((1, 77), jnp.int32)
    arrays = flat(quick_jit(tower.init)(jax.random.key(0, impl="rbg"), tokens)["params"])
    expected = {
        "token_embedding": 0.02,
        "position_embedding": 0.01,
        "blocks_0/qkv/kernel": 64**-0.5,
        "blocks_0/project/kernel": 64**-0.5 * 6**-0.5,
        "blocks_0/mlp_expand/kernel": 128**-0.5,
        "blocks_0/mlp_project/kernel": 64**-0.5 * 6**-0.5,
        "projection/kernel": 64**-0.5,
    }
    for name, std in expected.items():
        assert np.std(arrays[name]) == pytest.approx(std, rel=0.05), name
    assert np.abs(arrays["projection/bias"]).max() == 0


def test_the_activation_and_the_projections_bias_are_settings(tree):
    ids = _row([48, 3, 7, END], 6)
    other = TOWER.clone(activation="gelu")
    difference = np.asarray(TOWER.apply(tree, ids) - other.apply(tree, ids))
    assert 1e-5 < np.abs(difference).max() < 1e-1
    plain = TOWER.clone(projection_bias=False)
    params = {k: v for k, v in tree["params"].items() if k != "projection"}
    params["projection"] = {"kernel": tree["params"]["projection"]["kernel"]}
    shapes = meta.unbox(jax.eval_shape(plain.init, jax.random.key(0), ids))["params"]
    assert flat(shapes).keys() == flat(params).keys()
    # The bias starts at 0.
    np.testing.assert_array_equal(plain.apply({"params": params}, ids), TOWER.apply(tree, ids))
    with pytest.raises(UserError, match="did you mean gelu"):
        TOWER.clone(activation="gel")


def test_too_long_a_text(tree):
    with pytest.raises(ValueError, match="context is 12"):
        TOWER.apply(tree, jnp.zeros((1, 13), jnp.int32))


BATCH = [[48, 3, 7, END], [48, 5, END, 0]]


def with_rows(ids, length=12):
    return jnp.concatenate([_row(row, length) for row in ids])


@pytest.mark.medium
def test_a_batch_is_read_to_the_first_length_that_holds_its_longest_text(tree):
    """Positions beyond it are never touched: NaN there would reach every word through the attention's product."""
    tower = TOWER.clone(lengths=(2, 4, 8))
    place = tree["params"]["position_embedding"]
    for longest, limit in ((3, 4), (4, 4), (5, 8), (8, 8), (9, 12)):
        tokens = with_rows([[48, *[3] * (longest - 2), END], [48, END]])
        poisoned = {**tree["params"], "position_embedding": place.at[limit:].set(jnp.nan)}
        embedded, words = tower.apply({"params": poisoned}, tokens, method=TextTransformer.both)
        np.testing.assert_allclose(embedded, TOWER.apply(tree, tokens), rtol=1e-5, atol=1e-6)
        assert not np.asarray(words[:, limit:]).any() and np.abs(words[:, :longest]).min() > 0
        if limit < 12:
            poisoned["position_embedding"] = place.at[limit - 1 :].set(jnp.nan)
            assert not np.isfinite(tower.apply({"params": poisoned}, tokens)).all()


@pytest.mark.medium
@pytest.mark.parametrize("hidden", [False, True])
def test_gradients_of_short_texts_are_those_of_the_padded_ones(tree, hidden):
    tokens = with_rows(BATCH)
    mask = (tokens != 3) if hidden else None

    def loss(params, tower):
        embedded, words = tower.apply({"params": params}, tokens, mask, method=TextTransformer.both)
        return (embedded**2).sum() + jnp.sin(words[:, :3]).sum()

    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree["params"])
        grad = jax.jit(jax.grad(loss), static_argnums=1)
        whole, short = grad(params, TOWER), grad(params, TOWER.clone(lengths=(4,)))
        for name, value in flat(short).items():
            np.testing.assert_allclose(value, flat(whole)[name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("lengths", [(0,), (4, 4), (8, 4), (12,), (4.0,), ("4",), 4])
def test_wrong_lengths_are_named(lengths):
    with pytest.raises(UserError, match=r"text\.lengths: .* from 1 to 11, rising"):
        TOWER.clone(lengths=lengths)
