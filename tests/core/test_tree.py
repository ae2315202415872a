"""Trees by name: partition and its inverse, grafts and what they report; keys by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import keys, tree
from intern_jax.core.config import UserError


def params():
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {"backbone": {"stem": {"kernel": kernel, "bias": np.zeros(3)}}, "head": np.ones(3)}


def test_names_and_back():
    named = tree.names(params())
    assert list(named) == ["backbone/stem/bias", "backbone/stem/kernel", "head"]
    assert jax.tree.structure(tree.unflatten(named)) == jax.tree.structure(params())
    assert tree.count(params()) == 12


@pytest.mark.parametrize("regex", ["backbone/.*", ".*", "none", ".*kernel"])
def test_partition_splits_and_merges(regex):
    mine, rest = tree.partition(params(), regex)
    assert not set(tree.names(mine)) & set(tree.names(rest))
    merged = tree.merge(mine, rest)
    assert jax.tree.structure(merged) == jax.tree.structure(params())
    for name, leaf in tree.names(params()).items():
        assert np.array_equal(tree.names(merged)[name], leaf)


def test_partition_matches_from_the_start_of_a_name():
    mine, _ = tree.partition(params(), "backbone|stem")
    assert set(tree.names(mine)) == {"backbone/stem/bias", "backbone/stem/kernel"}
    mine, _ = tree.partition(params(), "stem")
    assert not mine


def test_graft_takes_the_first_rule_whose_source_exists():
    source = {
        "old/stem/kernel": np.full((2, 3), 7.0),
        "spare/stem/kernel": np.full((2, 3), 8.0),
        "spare/stem/bias": np.full(3, 9.0),
        "ema": np.zeros(1),
    }
    rules = [(r"backbone/(.*)", r"old/\1"), (r"backbone/(.*)", r"spare/\1")]
    made, report = tree.graft(params(), source, rules)
    assert (made["backbone"]["stem"]["kernel"] == 7).all()
    assert (made["backbone"]["stem"]["bias"] == 9).all()
    assert (made["head"] == params()["head"]).all()
    assert made["backbone"]["stem"]["kernel"].dtype == np.float32
    assert report.matched == ["backbone/stem/bias", "backbone/stem/kernel"]
    assert report.missing == ["head"]
    assert sorted(report.unused) == ["ema", "spare/stem/kernel"]
    assert report.summary() == "matched 2, missing 1 (head), unused 2 (ema, spare/stem/kernel)"


def test_graft_rules_match_whole_names():
    _, report = tree.graft(params(), {"head": np.zeros(3)}, [("hea", "head")])
    assert report.matched == []


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("head", "old")], r"graft old -> head: shape \(2,\) is not \(3,\); start from"),
        ([("head", r"\1")], "graft 'head' -> .* name a group of the regex"),
        ([("he(ad", "old")], "'he\\(ad' is not a regular expression"),
    ],
)
def test_graft_refuses(rules, message):
    with pytest.raises(UserError, match=message) as caught:
        tree.graft(params(), {"old": np.zeros(2)}, rules)
    assert "\n" not in str(caught.value)


def test_partition_refuses_what_is_no_regular_expression():
    with pytest.raises(UserError, match="is not a regular expression"):
        tree.partition(params(), "(")


def test_keys_depend_on_every_name_and_its_place():
    paths = [(), ("a",), ("b",), ("a", "b"), ("b", "a"), ("a", 1)]
    made = [keys.key_for(seed, *path) for path in paths for seed in (0, 1)]
    drawn = {tuple(jax.random.key_data(key).tolist()) for key in made}
    assert len(drawn) == 12
    assert jnp.array_equal(
        jax.random.key_data(keys.key_for(3, "a")), jax.random.key_data(keys.key_for(3, "a"))
    )


def test_layers_above_count_blocks_of_each_network():
    found = tree.layers_above(
        [
            *("backbone/patch_embed/kernel", "backbone/position_embedding", "backbone/norm/scale"),
            *(f"backbone/blocks_{i}/mlp/kernel" for i in (0, 2, 10)),
            *("backbone/projection/kernel", "logit_scale", "backbone/blocks_10/norm/scale"),
            *("text/token_embedding", "text/blocks_0/qkv/kernel", "text/final_norm/bias"),
            *(f"many/a/layer{level}_{i}/conv_1/kernel" for level, i in ((1, 0), (1, 1), (2, 0))),
            *("many/a/stem_conv/kernel", "many/a/transfer/kernel"),
        ]
    )
    assert found == {
        **{"backbone/patch_embed/kernel": 4, "backbone/position_embedding": 4},
        **{f"backbone/blocks_{i}/mlp/kernel": k for i, k in ((0, 3), (2, 2), (10, 1))},
        **{"backbone/norm/scale": 1, "backbone/blocks_10/norm/scale": 1},
        **{"backbone/projection/kernel": 0, "logit_scale": 0},
        **{"text/token_embedding": 2, "text/blocks_0/qkv/kernel": 1, "text/final_norm/bias": 1},
        **{"many/a/layer1_0/conv_1/kernel": 3, "many/a/layer1_1/conv_1/kernel": 2},
        **{"many/a/layer2_0/conv_1/kernel": 1, "many/a/stem_conv/kernel": 4},
        **{"many/a/transfer/kernel": 0},
    }
