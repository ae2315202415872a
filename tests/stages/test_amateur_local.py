"""The local sub-stage: what its teacher is, what is hidden, its centre, and that its start is the amateur's end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_batches import (
    CONVOLUTIONS,
    TEXT,
    VIT,
    Fixed,
    abstract,
    drawn,
    fit,
    pairs,
    quick_jit,
    trainer,
)

from intern_jax.core import averages, tree
from intern_jax.core.config import UserError
from intern_jax.losses import local
from intern_jax.stages.amateur import Amateur
from intern_jax.stages.amateur_local import AmateurLocal
from intern_jax.tasks.local_pairs import draw
from intern_jax.train.stage import Context

TOWERS = {"text": TEXT, "embed_dim": 16, "simsiam_hidden": 32, "bank": {"size": 32}}
HEAD = {"prototypes": 24, "hidden_width": 16, "bottleneck": 8}
NET = VIT | {"image_size": 32}


def seen(stage, params, extra, batch, average=None, frozen=None):
    average = tree.partition(params, stage.average)[0] if average is None else average
    step, key = jnp.zeros((), jnp.int32), jax.random.key(0)
    return Context(step, params, extra, frozen or {}, average, batch, key)


@pytest.mark.medium
def test_the_teacher_is_the_students_backbone_under_an_averaged_head():
    # Nothing hidden: the student's maps are the teacher's, and only the heads differ.
    stage = AmateurLocal(backbone=NET, masked=0.0, losses="clip", **HEAD, **TOWERS)
    batch = pairs()
    params, extra = drawn(stage, batch)
    other = jax.tree.map(lambda x: x + 0.1, tree.partition(params, stage.average)[0])
    centre = jnp.linspace(-1, 1, 24)
    extra = {**extra, "centre": {"patches": centre}}

    @quick_jit
    def found(params):
        out, terms, _ = stage.embed(seen(stage, params, extra, batch, other))
        return averages.value(terms["local"]), out["scores"]

    loss, scores = found(params)

    @quick_jit
    def by_hand(params):
        whole = stage.model.apply(
            {"params": params},
            stage._pairs(batch),
            stage.wanted,
            train=True,
            rngs={"mask": jax.random.key(5)},
        )
        each, means = [], []
        for view in "12":
            head = {"params": {**params, **other}}
            teacher = stage.model.apply(head, whole[f"m{view}"], method="patches")
            student = stage.model.apply({"params": params}, whole[f"m{view}"], method="patches")
            each.append(local.patch_distillation(student, teacher, centre))
            means.append(teacher.mean((1, 2)))
        return averages.value(each[0].merge(each[1])), sum(means) / 2

    wanted, wanted_scores = by_hand(params)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-6)
    _, (changed, metrics) = stage.couple(
        seen(stage, params, extra, batch, other),
        {"scores": scores, "f1": jnp.ones((8, 16)), "g1": jnp.ones((8, 16))},
    )
    np.testing.assert_allclose(
        changed["centre"]["patches"], 0.9 * centre + 0.1 * scores.mean(0), atol=1e-6
    )
    assert float(averages.value(metrics["score_spread"])) > 0


def test_hidden_positions_are_a_drawn_share_of_a_share_of_the_pictures():
    hidden = np.asarray(draw(jax.random.key(0), 4000, (4, 4), 0.5, (0.1, 0.5)))
    count = hidden.sum((1, 2))
    # Half of the pictures show all; a drawn share of at least 0.1 hides at least 2 of 16.
    assert abs((count > 0).mean() - 0.5) < 0.03
    shares = count[count > 0] / 16
    assert shares.min() == 2 / 16 and shares.max() == 8 / 16 and abs(shares.mean() - 0.3) < 0.02
    assert abs(hidden.mean((0,)) - hidden.mean()).max() < 0.03


def test_a_hidden_position_shows_the_learned_colour_and_nothing_of_the_picture():
    stage = AmateurLocal(backbone=NET, masked=1.0, hidden=(1.0, 1.0), **HEAD, **TOWERS)
    batch = pairs()
    params, extra = drawn(stage, batch)

    @quick_jit
    def scores(params, rows):
        variables = {"params": params, **{n: c for n, c in extra.items() if n == "batch_stats"}}
        out, _ = stage.model.apply(
            variables,
            stage._pairs({"pairs": rows}),
            (4, 4),
            train=True,
            mutable=["batch_stats"],
            rngs={"mask": jax.random.key(0)},
            method="hidden_scores",
        )
        return out["1"]

    rows = batch["pairs"]
    first = scores(params, rows)
    other = scores(params, rows | {"image1": rows["image1"][::-1]})
    np.testing.assert_array_equal(first, other)
    np.testing.assert_allclose(first, jnp.broadcast_to(first[:1], first.shape), atol=1e-6)
    recoloured = {**params, "mask_color": params["mask_color"] + 1}
    assert float(abs(scores(recoloured, rows) - first).max()) > 1e-4


@pytest.fixture(scope="module")
def started():
    """An amateur after two steps, and the local sub-stage that starts from it, before its first step."""
    amateur = fit(Amateur(backbone=CONVOLUTIONS, **TOWERS), pairs(), 2).state
    flat = tree.names({"params": amateur.params, "batch_stats": amateur.extra["batch_stats"]})
    source = {f"amateur/{name}": np.asarray(value) for name, value in flat.items()}
    made = trainer(AmateurLocal(backbone=CONVOLUTIONS, cross=0.5, **HEAD, **TOWERS))
    return flat, source, made, made.fit(Fixed(pairs()), source=source, steps=0)


@pytest.mark.medium
def test_it_starts_where_the_amateur_ended(started):
    flat, _, _, result = started
    mine = tree.names({"params": result.state.params, **result.state.extra})
    for name, value in flat.items():
        np.testing.assert_array_equal(mine[name], value, err_msg=name)
    fresh = {name.split("/")[1] for name in result.report.missing}
    assert fresh == {"local_head", "mask_color", "rows", "pointer", "patches"}
    # The average is of the head alone, and no optimizer moves it.
    assert set(result.state.average) == {"local_head"}


@pytest.mark.medium
def test_a_step_learns_locally_and_across_views(started):
    _, source, made, before = started
    after = made.fit(Fixed(pairs()), source=source, steps=3)
    row = after.history[0]
    assert {"local", "cross", "clip", "words", "neighbours", "simsiam"} <= row.keys()
    weights = made.stage.weights
    total = sum(weights[name] * row[name] for name in weights)
    assert row["loss"] == pytest.approx(total, rel=1e-5)
    heads = [tree.names(state.params["local_head"]) for state in (before.state, after.state)]
    moved = tree.names(after.state.average["local_head"])
    for name, value in heads[0].items():
        gone, followed = (float(abs(x[name] - value).sum()) for x in (heads[1], moved))
        assert 0 < followed < 0.05 * gone
    assert np.asarray(after.state.extra["centre"]["patches"]).any()


def test_gram_anchoring_reads_a_frozen_backbone():
    stage = AmateurLocal(
        backbone=NET, gram=2.0, losses="clip", teachers={"anchor": NET}, **HEAD, **TOWERS
    )
    assert stage.roles["anchor"].frozen and stage.weights["gram"] == 2.0
    batch = pairs()
    params, extra = drawn(stage, batch)
    anchors = [{"anchor": {"params": {"backbone": params["backbone"]}}}]
    anchors.append(jax.tree.map(lambda x: x * 1.5, anchors[0]))

    @quick_jit
    def distance(frozen):
        here = seen(stage, params, extra, batch, frozen=frozen)
        return averages.value(stage.embed(here)[1]["gram"])

    same, apart = (float(distance(frozen)) for frozen in anchors)
    assert same == pytest.approx(0, abs=1e-9) and apart > 1e-5


def test_hidden_pictures_leave_batchnorm_alone():
    batch, after = pairs(), []
    for masked in (0.0, 1.0):
        stage = AmateurLocal(backbone=CONVOLUTIONS, masked=masked, losses="clip", **HEAD, **TOWERS)
        params, extra = drawn(stage, batch)
        extra = {**extra, "centre": {"patches": jnp.zeros(24)}}
        step = quick_jit(lambda p, e, s=stage: s.embed(seen(s, p, e, batch))[2][0]["batch_stats"])
        after.append(tree.names(step(params, extra)))
    assert after[0].keys() == after[1].keys() and len(after[0]) > 4
    for name, value in after[0].items():
        np.testing.assert_array_equal(value, after[1][name], err_msg=name)


def test_weights_of_zero_are_kept():
    stage = AmateurLocal(backbone=NET, local=0.0, cross=1.0, **HEAD, **TOWERS)
    assert stage.weights["local"] == 0.0 and stage.weights["cross"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatures": (0.1, 0.0)}, r"stage\.temperatures: \(0\.1, 0\.0\); .* above 0"),
        ({"hidden": (0.5, 0.1)}, r"stage\.hidden: .* lower one first"),
        ({"masked": 5}, r"stage\.masked: 5; give a share"),
        ({"prototypes": 0}, r"stage\.prototypes: 0; give at least 1"),
        ({"backbone": NET | {"keep": 0.5}}, r"backbone\.keep: below 1"),
        (
            {"losses": {"cross": {"fn": "intern_jax.losses.contrastive:clip"}}},
            r"stage\.losses\.cross",
        ),
    ],
)
def test_settings_outside_their_range_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        AmateurLocal(**{"backbone": NET, **TOWERS, **HEAD, **settings})


def test_wrong_settings_are_named():
    with pytest.raises(UserError, match=r"stage\.layer: 'layer9'; give one of layer1"):
        AmateurLocal(backbone=NET, layer="layer9", **HEAD, **TOWERS)
    stage = AmateurLocal(backbone=NET, cross=1.0, **HEAD, **TOWERS)
    rows = {name: rows for name, rows in pairs()["pairs"].items() if name != "flip1"}
    extra = abstract(stage, pairs())
    params = extra.pop("params")
    with pytest.raises(
        UserError, match=r"the batch has no flip1, which stage\.cross needs; set geometry"
    ):
        jax.eval_shape(
            lambda p, e: stage.embed(seen(stage, p, e, {"pairs": rows}))[1], params, extra
        )
