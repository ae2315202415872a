"""Optimizers against hand calculation, and the schedule's values."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.tasks.pairs import ImageText
from intern_jax.train import optim, settings
from intern_jax.train.state import unbox

PARAMS = {
    "head": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)},
    "scale": jnp.ones(()),
}
NONE = jax.tree.map(jnp.zeros_like, PARAMS)


def update(cfg, grads, params=PARAMS):
    tx = optim.build(cfg)
    return tx.update(grads, tx.init(params), params)[0]


def test_weight_decay_reaches_matrices_only():
    made = update({"weight_decay": 0.1}, NONE)
    np.testing.assert_allclose(made["head"]["kernel"], 0.2, rtol=1e-6)
    assert not made["head"]["bias"].any() and not made["scale"].any()


@pytest.mark.medium
def test_weight_decay_leaves_out_position_embeddings_and_tokens():
    """timm's ViT names pos_embed and cls_token in `no_weight_decay`; open_clip's text tower has no such list."""
    model = ImageText(
        backbone_spec={"name": "vit_s_16", "width": 16, "depth": 4, "heads": 2, "image_size": 32},
        text_spec={"vocab_size": 50, "context": 4, "width": 8, "layers": 1, "heads": 2},
        embed_dim=8,
        simsiam_hidden=8,
        sigmoid=False,
        least_scale=0.0,
    )
    fields = {"image1": jnp.zeros((2, 32, 32, 3)), "tokens1": jnp.zeros((2, 4), jnp.int32)}
    made = jax.eval_shape(
        lambda key: model.init(key, fields, frozenset(("f1", "g1")), train=True), jax.random.key(0)
    )
    params = jax.tree.map(lambda x: jnp.ones(x.shape), unbox(made["params"]))
    for settings_of in ({"weight_decay": 0.1}, {"name": "sgd", "l2": 0.1}):
        changed = update(settings_of, jax.tree.map(jnp.zeros_like, params), params)
        decayed = {name for name, u in tree.names(changed).items() if np.asarray(u).any()}
        flat = tree.names(params)
        still = [name for name in flat if name not in decayed]
        assert [n for n in still if flat[n].ndim > 1] == ["backbone/position_embedding"]
        assert "backbone/cls_token" in still
        assert {"text/token_embedding", "text/position_embedding"} < decayed
        assert all(name in decayed for name in flat if name.endswith("kernel"))


def test_multipliers_take_the_first_match_and_scale_decay_too():
    cfg = {"name": "sgd", "weight_decay": 0.1, "lr_multipliers": [("head/k", 0.5), ("head", 0.0)]}
    made = update(cfg, jax.tree.map(jnp.ones_like, PARAMS))
    np.testing.assert_allclose(made["head"]["kernel"], 0.5 * (1 + 0.2), rtol=1e-6)
    assert not made["head"]["bias"].any()
    assert made["scale"] == 1.0


def test_first_adam_step_is_the_sign_and_lion_too():
    grads = jax.tree.map(lambda p: -3.0 * jnp.ones_like(p), PARAMS)
    for name in ("adamw", "lion"):
        np.testing.assert_allclose(update({"name": name}, grads)["head"]["bias"], -1, rtol=1e-5)


def test_clipping_is_over_all_arrays():
    grads = jax.tree.map(lambda p: 10 * jnp.ones_like(p), PARAMS)
    made = update({"name": "sgd", "clip_norm": 1.0}, grads)
    total = sum(float((u**2).sum()) for u in jax.tree.leaves(made))
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_schedule():
    cfg = {"learning_rate": 1.0, "warmup_steps": 4}
    rates = [float(optim.learning_rate(cfg, 12, step)) for step in range(13)]
    np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)
    np.testing.assert_allclose(rates[8], 0.5, atol=1e-6)
    assert rates[12] == 0 and all(a > b for a, b in itertools.pairwise(rates[4:]))
    # SGDR (arXiv 1608.03983), eq. 5: the lowest rate is the end's.
    ending = [float(optim.learning_rate(cfg | {"end_rate": 0.1}, 12, step)) for step in range(13)]
    np.testing.assert_allclose(ending[:5], rates[:5])
    np.testing.assert_allclose(ending[8:], 0.1 + 0.9 * np.array(rates[8:]), rtol=1e-6)
    assert ending[12] == pytest.approx(0.1)
    constant = {"learning_rate": 0.3, "schedule": "constant"}
    assert optim.learning_rate(constant, 10, 0) == optim.learning_rate(constant, 10, 9)
    assert optim.learning_rate(constant, 10, 0).dtype == np.float32


def test_poly_falls_to_its_end():
    cfg = {"learning_rate": 0.01, "schedule": "poly", "end_rate": 1e-4}
    rates = [float(optim.learning_rate(cfg, 20, step)) for step in (0, 5, 10, 20, 25)]
    expected = [0.0099 * (1 - share) ** 0.9 + 1e-4 for share in (0, 0.25, 0.5, 1, 1)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    linear = cfg | {"power": 1.0, "end_rate": 0.0}
    np.testing.assert_allclose(optim.learning_rate(linear, 20, 5), 0.0075, rtol=1e-6)


def test_steps_fall_to_a_tenth_at_each_drop():
    cfg = {"learning_rate": 1.0, "schedule": "steps", "drops": [0.5, 0.75], "warmup_steps": 2}
    rates = [float(optim.learning_rate(cfg, 12, step)) for step in (0, 2, 5, 6, 8, 9, 11)]
    np.testing.assert_allclose(rates, [1 / 3, 1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    of = optim.groups(cfg | {"groups": {"head": {"match": "head", "schedule": "cosine"}}})
    assert of["head"]["schedule"] == "cosine" and "drops" not in of["head"]


def test_l2_goes_through_the_momentum():
    """Two steps of SGD on a constant gradient, by hand: m = .9 m + g + l2 p."""
    tx = optim.build({"name": "sgd", "l2": 0.1})
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    state, params = tx.init(PARAMS), PARAMS
    for expected in (1.2, 0.9 * 1.2 + 1.0 + 0.1 * (2 - 0.5 * 1.2)):
        made, state = tx.update(grads, state, params)
        np.testing.assert_allclose(made["head"]["kernel"], expected, rtol=1e-6)
        params = jax.tree.map(lambda p, u: p - 0.5 * u, params, made)
    assert (np.asarray(made["head"]["bias"]) == np.float32(1.9)).all()  # not decayed


DEEP = {
    "backbone": {
        "stem_conv": {"kernel": jnp.ones((2, 2))},
        "blocks_0": {"norm": {"scale": jnp.ones(2)}},
        "blocks_1": {"conv": {"kernel": jnp.ones((2, 2))}},
        "head_norm": {"scale": jnp.ones(2)},
    },
    "heads_a": {"kernel": jnp.ones((2, 2))},
}


def test_layers_further_from_the_heads_learn_slower():
    """decay^(L + 1 - depth): here L = 2, the stem has depth 0, a head L + 1."""
    grads = jax.tree.map(jnp.ones_like, DEEP)
    for groups in ({}, {"norms": {"match": ".*norm", "weight_decay": 0.0}}):
        cfg = {"name": "sgd", "weight_decay": 0.1, "layer_decay": 0.5, "groups": groups}
        made = tree.names(update(cfg, grads, DEEP))
        assert {name: float(u.reshape(-1)[0]) for name, u in made.items()} == {
            "backbone/blocks_0/norm/scale": 0.25,
            "backbone/blocks_1/conv/kernel": pytest.approx(0.5 * 1.1),
            "backbone/head_norm/scale": 0.5,
            "backbone/stem_conv/kernel": pytest.approx(0.125 * 1.1),
            "heads_a/kernel": pytest.approx(1.1),
        }


def test_a_decay_of_one_changes_neither_settings_nor_state():
    for cfg in ({}, {"layer_decay": 1.0}):
        assert "layer_decay" not in settings.optim(cfg)
        states = [optim.build(c).init(DEEP) for c in ({}, cfg)]
        assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    assert settings.optim({"layer_decay": 0.65})["layer_decay"] == 0.65


def test_a_decay_without_blocks_is_told():
    optim.check_names({"layer_decay": 0.5}, DEEP)
    optim.check_names({}, PARAMS)
    with pytest.raises(UserError, match=r"optim\.layer_decay: no trainable .* such as head/bias"):
        optim.check_names({"layer_decay": 0.5}, PARAMS)


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({"layer_decay": 0.0}, "optim.layer_decay: 0.0; write a number above 0"),
        ({"layer_decay": 1.2}, "optim.layer_decay: 1.2; write a number of at most 1"),
        (
            {"groups": {"a": {"match": "a", "layer_decay": 0.5}}},
            "optim.groups.a.layer_decay: no such field",
        ),
        ({"learning_rate": float("nan")}, "optim.learning_rate: nan; write a finite number"),
        ({"learning_rate": float("inf")}, "optim.learning_rate: inf; write a finite number"),
        ({"learning_rate": -1e-3}, "optim.learning_rate: -0.001; write a number of at least 0"),
        ({"learning_rate": "1e-3"}, "optim.learning_rate: '1e-3'; write a number"),
        ({"learning_rate": True}, "optim.learning_rate: True; write a number"),
        (
            {"groups": {"a": {"match": "a", "learning_rate": float("nan")}}},
            "optim.groups.a.learning_rate: nan; write a finite number",
        ),
        (
            {"schedule": "constant", "end_rate": 1e-4},
            "optim.end_rate: has no effect in schedule 'constant'; goes with 'cosine' or 'poly'",
        ),
        (
            {"schedule": "steps", "drops": [0.5], "end_rate": 1e-4},
            "optim.end_rate: has no effect in schedule 'steps'",
        ),
        ({"power": 2.0}, "optim.power: has no effect in schedule 'cosine'; goes with 'poly'"),
        (
            {"learning_rate": 1e-3, "end_rate": 1e-2},
            "optim.end_rate: 0.01 is above the peak learning_rate 0.001; write a smaller rate",
        ),
        (
            {"groups": {"a": {"match": "a", "learning_rate": 1e-5}}, "end_rate": 1e-4},
            "optim.groups.a.end_rate: 0.0001 is above the peak",
        ),
        ({"lr_multipliers": [["head", float("nan")]]}, r"optim.lr_multipliers\[0\]"),
        ({"lr_multipliers": [["head", "0.1"]]}, r"optim.lr_multipliers\[0\]"),
        ({"weight_deacy": 0.1}, "optim.weight_deacy: no such field"),
        ({"name": "adagrad"}, "optim.name: no optimizer 'adagrad'; known: adamw"),
        ({"schedule": "linear"}, "optim.schedule: no 'linear'; known: cosine"),
        ({"schedule": "steps"}, "optim.drops: goes with schedule 'steps' alone, which needs one"),
        ({"drops": [0.5]}, "optim.drops: goes with schedule 'steps' alone"),
        ({"schedule": "steps", "drops": [0.9, 0.5]}, r"optim.drops: \[0.9, 0.5\]; write rising"),
        ({"schedule": "steps", "drops": [1.5]}, r"optim.drops\[0\]"),
    ],
)
def test_unknown_settings(cfg, said):
    with pytest.raises(UserError, match=said):
        optim.build(cfg)


def test_groups_inherit_of_a_schedule_what_their_own_one_uses():
    main = {"schedule": "poly", "power": 2.0, "end_rate": 1e-4, "learning_rate": 1e-2}
    of = {
        "same": {"match": "a", "learning_rate": 1e-3},
        "flat": {"match": "b", "schedule": "constant"},
        "round": {"match": "c", "schedule": "cosine"},
    }
    found = optim.groups(main | {"groups": of})
    assert {n: (g["end_rate"], g["power"]) for n, g in found.items()} == {
        "main": (1e-4, 2.0),
        "same": (1e-4, 2.0),
        "flat": (0.0, 0.9),
        "round": (1e-4, 0.9),
    }


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (
            {"lr_multipliers": [["head", 0.5], ["haed", 0.1]]},
            r"optim\.lr_multipliers\[1\]: 'haed' matches no trainable parameter; .* such as head/bias",
        ),
        (
            {"lr_multipliers": [["head", 0.5], ["head/k", 0.1]]},
            r"lr_multipliers\[1\]: 'head/k' matches only .* that an earlier rule matches",
        ),
        (
            {"groups": {"h": {"match": "head", "lr_multipliers": [["scale", 0.5]]}}},
            r"optim\.groups\.h\.lr_multipliers\[0\]: 'scale' matches only parameters of other groups",
        ),
    ],
)
def test_a_multiplier_that_no_parameter_gets_is_told(cfg, said):
    with pytest.raises(UserError, match=said):
        optim.check_names(cfg, PARAMS)


def test_multipliers_that_groups_inherit_need_match_in_one_of_them_only():
    of = {"h": {"match": "head"}}
    optim.check_names({"lr_multipliers": [["head", 0.5], ["scale", 0.1]], "groups": of}, PARAMS)


def test_missing_learning_rate():
    with pytest.raises(UserError, match=r"optim\.learning_rate: missing"):
        optim.learning_rate({}, 10, 0)
