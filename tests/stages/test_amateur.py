"""The amateur's contract: what it declares, its loss from its embeddings by hand, and what a loss may ask for."""

import jax
import numpy as np
import pytest
from tiny_batches import CONVOLUTIONS, TEXT, VIT, abstract, drawn, pairs, quick_jit, seen

from intern_jax.core import averages, tree
from intern_jax.core.config import UserError
from intern_jax.stages.amateur import Amateur

CLIP = {"clip": {"fn": "intern_jax.losses.contrastive:clip_pairs"}}
TOWERS = {"text": TEXT, "embed_dim": 16, "simsiam_hidden": 32}


@pytest.fixture(scope="module")
def contrast():
    """An amateur of the contrast alone, whose pictures meet no BatchNorm; its variables, batch and loss."""
    stage, batch = Amateur(backbone=VIT, losses=CLIP, **TOWERS), pairs(size=16)
    params, extra = drawn(stage, batch)

    @quick_jit
    def loss(params, batch):
        terms, (_, metrics) = stage.loss(seen(params, extra, batch))
        return {name: averages.value(a) for name, a in {**terms, **metrics}.items()}

    return stage, params, extra, batch, loss


def entropy_of_the_diagonal(logits):
    logits = logits.astype(np.float64)
    return (np.log(np.exp(logits).sum(1)) - np.diagonal(logits)).mean()


def test_the_loss_is_that_of_its_predicted_embeddings(contrast):
    stage, params, extra, batch, loss = contrast
    params = {**params, "logit_scale": np.float32(1.2)}
    rows = batch["pairs"]
    predict = quick_jit(stage.predict)
    seen_twice = [
        predict(params, extra, {"image": rows[f"image{i}"], "tokens": rows[f"tokens{i}"]})
        for i in (1, 2)
    ]
    pictures, texts = ([np.asarray(out[name]) for out in seen_twice] for name in ("image", "text"))
    for embeddings in (*pictures, *texts):
        assert embeddings.shape == (8, 16)
        np.testing.assert_allclose((embeddings**2).sum(1), 1.0, rtol=1e-5)
    scale, each = np.exp(1.2), []
    for v in pictures:
        for u in texts:
            logits = scale * v @ u.T
            each += [entropy_of_the_diagonal(logits), entropy_of_the_diagonal(logits.T)]
    found = loss(params, batch)
    assert set(found) == {"clip", "retrieval", "scale"}
    assert float(found["clip"]) == pytest.approx(np.mean(each), rel=1e-4)
    assert float(found["scale"]) == pytest.approx(scale, rel=1e-6)
    right = (pictures[0] @ texts[0].T).argmax(1) == np.arange(8)
    assert float(found["retrieval"]) == right.mean()


def test_the_scale_of_the_contrast_is_at_most_100(contrast):
    _, params, _, batch, loss = contrast
    assert float(loss({**params, "logit_scale": np.float32(9.0)}, batch)["scale"]) == 100.0


def test_the_order_of_the_rows_plays_no_part_and_who_belongs_to_whom_does(contrast):
    _, params, _, batch, loss = contrast
    params = {**params, "logit_scale": np.float32(4.5)}
    order = np.random.default_rng(3).permutation(8)
    rows, wanted = batch["pairs"], float(loss(params, batch)["clip"])
    turned = {name: value[order] for name, value in rows.items()}
    assert float(loss(params, {"pairs": turned})["clip"]) == pytest.approx(wanted, rel=1e-5)
    mixed = rows | {name: rows[name][order] for name in ("tokens1", "tokens2")}
    assert abs(float(loss(params, {"pairs": mixed})["clip"]) - wanted) > 1e-3


def test_only_what_is_asked_for_is_predicted(contrast):
    stage, params, extra, batch, _ = contrast
    for asked, answered in (("image", "image"), ("tokens", "text")):
        given = {asked: batch["pairs"][f"{asked}1"]}
        out = jax.eval_shape(stage.predict, params, extra, given)
        assert {name: value.shape for name, value in out.items()} == {answered: (8, 16)}


def test_it_says_what_it_reads_and_starts_from_nothing():
    stage = Amateur(backbone=VIT, **TOWERS)
    assert stage.kinds == ("pairs",) and not stage.roles and not stage.graft
    assert stage.cached and not stage.batch_coupled
    assert stage.weights == {"clip": 1.0, "simsiam": 0.2}
    assert stage.functions == [
        "intern_jax.losses.contrastive:clip_pairs",
        "intern_jax.losses.self_supervised:simsiam",
    ]
    heavier = Amateur(backbone=VIT, weights={"simsiam": 2.0}, **TOWERS)
    assert heavier.weights == {"clip": 1.0, "simsiam": 2.0}


def modules(stage) -> set[str]:
    return {name.split("/")[0] for name in tree.names(abstract(stage, pairs(size=16))["params"])}


def test_simsiams_networks_are_there_where_a_loss_asks_for_them():
    both = {"backbone", "image_projection", "text", "logit_scale"}
    assert modules(Amateur(backbone=VIT, losses=CLIP, **TOWERS)) == both
    whole = Amateur(backbone=VIT, **TOWERS)
    assert modules(whole) == both | {"projector", "predictor"}
    # Their BatchNorm is not on the way to the contrast.
    statistics = tree.names(abstract(whole, pairs(size=16))["batch_stats"])
    assert statistics and all(
        name.split("/")[0] in ("projector", "predictor") for name in statistics
    )


def test_what_a_loss_asks_for_and_nobody_has_is_named():
    asks = {"near": {"fn": "intern_jax.losses.contrastive:nearest_neighbour_pairs"}}
    with pytest.raises(UserError, match=r"stage\.losses\.near: .* asks for 'q1'; .* u1, u2"):
        Amateur(backbone=VIT, losses=asks, **TOWERS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            {"widht": 3},
            r"stage\.text\.widht: no such setting of the text tower; did you mean width",
        ),
        ({"vocab_size": ...}, r"stage\.text\.vocab_size: missing; give "),
    ],
)
def test_wrong_settings_of_the_text_tower_are_named(text, message):
    settings = {name: value for name, value in (TEXT | text).items() if value is not ...}
    with pytest.raises(UserError, match=message):
        Amateur(backbone=VIT, **TOWERS | {"text": settings})


def test_a_step_moves_the_statistics_of_every_batchnorm():
    stage, batch = Amateur(backbone=CONVOLUTIONS, **TOWERS), pairs()
    params, extra = drawn(stage, batch)

    @quick_jit
    def loss(extra):
        terms, (new, metrics) = stage.loss(seen(params, extra, batch))
        return terms, new, metrics

    terms, new, metrics = loss(extra)
    assert set(terms) == {"clip", "simsiam"} and set(metrics) == {"retrieval", "scale", "spread"}
    # A cosine, of rows: its mean lies in [-1, 1]. A loss of all rows together counts once.
    assert -1 <= float(averages.value(terms["simsiam"])) <= 1
    assert float(terms["simsiam"].count) == 8 and float(terms["clip"].count) == 1
    before, after = tree.names(extra), tree.names(new)
    assert before.keys() == after.keys()
    assert all(np.any(np.asarray(before[name] != after[name])) for name in before)
