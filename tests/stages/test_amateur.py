"""The amateur's contract: what it declares, its loss from its embeddings by hand, and what a loss may ask for."""

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_batches import CONVOLUTIONS, TEXT, VIT, abstract, drawn, pairs, quick_jit, seen

from intern_jax.core import averages, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.losses import contrastive
from intern_jax.stages.amateur import Amateur
from intern_jax.tasks.pair_losses import SETS

CLIP = "views"
SIMSIAM = {name: SETS["self_supervised"][0][name] for name in ("clip", "simsiam")}
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
    assert abs(float(loss(params, {"pairs": mixed})["clip"]) - wanted) > 1e-4


def test_only_what_is_asked_for_is_predicted(contrast):
    stage, params, extra, batch, _ = contrast
    for asked, answered in (("image", "image"), ("tokens", "text")):
        given = {asked: batch["pairs"][f"{asked}1"]}
        out = jax.eval_shape(stage.predict, params, extra, given)
        assert {name: value.shape for name, value in out.items()} == {answered: (8, 16)}


def test_it_says_what_it_reads_and_by_which_losses():
    stage = Amateur(backbone=VIT, **TOWERS)
    assert stage.kinds == ("pairs",) and set(stage.roles) == {"amateur"}
    assert stage.cached and not stage.batch_coupled
    assert stage.weights == {"clip": 0.4, "simsiam": 0.2, "words": 0.2, "neighbours": 0.2}
    assert stage.functions == [
        "intern_jax.losses.contrastive:clip_pairs",
        "intern_jax.losses.contrastive:nearest_neighbour_pairs",
        "intern_jax.losses.self_supervised:simsiam",
        "intern_jax.losses.words:masked_words",
    ]
    heavier = Amateur(backbone=VIT, weights={"simsiam": 2.0}, **TOWERS)
    assert heavier.weights == stage.weights | {"simsiam": 2.0}
    paper = Amateur(backbone=VIT, losses="paper", **TOWERS)
    assert sum(paper.weights.values()) == pytest.approx(1.2) and "views" in paper.weights


def modules(stage) -> set[str]:
    return {name.split("/")[0] for name in tree.names(abstract(stage, pairs(size=16))["params"])}


def test_simsiams_networks_are_there_where_a_loss_asks_for_them():
    both = {"backbone", "image_projection", "text", "logit_scale"}
    assert modules(Amateur(backbone=VIT, losses=CLIP, **TOWERS)) == both
    assert modules(Amateur(backbone=VIT, losses="siglip", **TOWERS)) == both | {"logit_bias"}
    whole = Amateur(backbone=VIT, **TOWERS)
    assert modules(whole) == both | {"projector", "predictor", "word_head"}
    # Their BatchNorm is not on the way to the contrast.
    statistics = tree.names(abstract(whole, pairs(size=16))["batch_stats"])
    assert statistics and all(
        name.split("/")[0] in ("projector", "predictor") for name in statistics
    )


def test_what_a_loss_asks_for_and_nobody_has_is_named():
    asks = {"near": {"fn": "intern_jax.losses.contrastive:nearest"}}
    with pytest.raises(UserError, match=r"stage\.losses\.near: .* asks for 'u_BxD'; .* u1, u2"):
        Amateur(backbone=VIT, losses=asks, **TOWERS)
    with pytest.raises(UserError, match=r"stage\.losses: no set of losses 'declib'; .*declip"):
        Amateur(backbone=VIT, losses="declib", **TOWERS)
    with pytest.raises(UserError, match=r"stage\.bank\.sice: .* did you mean size"):
        Amateur(backbone=VIT, bank={"sice": 3}, **TOWERS)
    plain = {n: v for n, v in pairs(size=16)["pairs"].items() if n != "targets1"}
    with pytest.raises(UserError, match=r"data\.pairs\.transform: makes no targets1; set mask"):
        abstract(Amateur(backbone=VIT, **TOWERS), {"pairs": plain})


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
    stage, batch = Amateur(backbone=CONVOLUTIONS, losses=SIMSIAM, **TOWERS), pairs()
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


def test_the_bank_is_searched_before_it_is_pushed_second_texts_first():
    """DeCLIP's order. A bank of 20 rows for 8 + 8 texts per step: the second step goes round its end."""
    stage = Amateur(backbone=VIT, bank={"size": 20}, **TOWERS)
    batch = pairs(size=16)
    params, extra = drawn(stage, batch)
    rng = np.random.default_rng(4)
    bank = rng.normal(size=(20, 16)).astype(np.float32)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    extra = {**extra, "bank": {"rows": bank, "pointer": np.int32(0)}}

    @quick_jit
    def step(extra):
        here = seen(params, extra, batch)
        embeddings = stage.embed(here)[0]
        terms, (changed, _) = stage.couple(here, embeddings)
        return embeddings, averages.value(terms["neighbours"]), changed["bank"]

    embeddings, found, after = jax.device_get(step(extra))

    def unit(x):
        return x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)

    v1, v2, u1, u2 = (unit(embeddings[name]) for name in ("f1", "f2", "g1", "g2"))
    scale, each = np.exp(float(params["logit_scale"])), []
    for u in (u1, u2):
        near = unit(bank[(u @ bank.T).argmax(1)])
        each += [entropy_of_the_diagonal(min(scale, 100) * v @ near.T) for v in (v1, v2)]
    assert float(found) == pytest.approx(np.mean(each), rel=1e-4)
    assert after["pointer"] == 16
    np.testing.assert_allclose(after["rows"], np.concatenate([u2, u1, bank[16:]]), atol=1e-6)
    _, _, again = step({**extra, "bank": after})
    assert again["pointer"] == 12
    np.testing.assert_allclose(again["rows"][16:], u2[:4], atol=1e-6)
    np.testing.assert_allclose(again["rows"][:12], np.concatenate([u2[4:], u1]), atol=1e-6)
    np.testing.assert_allclose(again["rows"][12:16], np.concatenate([u2, u1])[12:16], atol=1e-6)


def test_one_bank_fills_over_batches_of_any_size():
    rows = np.arange(1, 31, dtype=np.float32)[:, None]
    bank, pointer = jnp.zeros((7, 1)), jnp.int32(0)
    for start, end in ((0, 3), (3, 5), (5, 14), (14, 21), (21, 30)):
        bank, pointer = contrastive.push(bank, pointer, rows[start:end])
        kept = rows[max(end - 7, 0) : end, 0]
        held = np.asarray(bank[:, 0])
        assert sorted(held[held > 0]) == sorted(kept.tolist())
        # The oldest row is the next to go.
        assert int(pointer) == end % 7
        if end >= 7:
            assert held[int(pointer)] == kept.min()


@pytest.mark.medium
def test_a_bank_starts_with_unit_rows_and_may_be_sharded():
    stage = Amateur(backbone=VIT, bank={"size": 32, "sharded": True}, **TOWERS)
    made = jax.eval_shape(stage.init, jax.random.key(0), pairs(size=16))["bank"]
    assert made["rows"].names == ("bank", None) and made["rows"].value.shape == (32, 16)
    rows = quick_jit(stage.init)(jax.random.key(0), pairs(size=16))["bank"]["rows"].value
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert "bank" not in Amateur(backbone=VIT, losses="self_supervised", **TOWERS).init(
        jax.random.key(0), pairs(size=16)
    )
    plain = Amateur(backbone=VIT, **TOWERS)
    assert plain.bank.size == 2**16 and not plain.bank.sharded


def test_the_text_tower_computes_in_the_runs_dtype():
    stage = Amateur(backbone=VIT | {"dtype": "bfloat16"}, **TOWERS)
    batch = pairs(size=16)
    extra = abstract(stage, batch)
    params = extra.pop("params")
    program = jax.make_jaxpr(lambda p, e: stage.loss(seen(p, e, batch))[0])(params, extra)
    products = dot_operands(program.jaxpr)
    # The contrast, the search of neighbours and SimSiam's cosines are in float32; the towers' products are not.
    wide = [shape for dtype, shape in products if dtype == "float32"]
    assert sum(dtype == "bfloat16" for dtype, _ in products) > 3 * len(wide)
    assert all(shape[-1] == 16 or shape[0] == 16 for shape in wide)


def dot_operands(jaxpr):
    """(dtype, shape) of the first operand of every matrix product, those of inner programs too."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            found.append((str(eqn.invars[0].aval.dtype), eqn.invars[0].aval.shape))
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            found += dot_operands(inner)
    return found


@pytest.mark.medium
def test_small_crops_join_a_loss_that_asks_for_them():
    losses = SETS["views"][0] | {"crops": {"fn": "intern_jax.losses.contrastive:clip_crops"}}
    stage = Amateur(backbone=VIT, losses=losses, **TOWERS)
    batch = pairs(size=16)
    rng = np.random.default_rng(0)
    batch["pairs"]["crops"] = rng.integers(0, 256, (8, 3, 8, 8, 3)).astype(np.uint8)
    params, extra = drawn(stage, batch)
    terms = quick_jit(lambda p: stage.loss(seen(p, extra, batch))[0])(params)
    out = stage.embed(seen(params, extra, batch))[0]
    v, (u1, u2) = contrastive.unit(out["fc"]), (contrastive.unit(out[g]) for g in ("g1", "g2"))
    scale = contrastive.temperature(params["logit_scale"])
    each = [contrastive.info_nce(v[:, i], u, scale) for i in range(3) for u in (u1, u2)]
    assert float(averages.value(terms["crops"])) == pytest.approx(np.mean(each), rel=1e-5)


def test_both_towers_and_the_words_are_sharded_by_logical_axes():
    """Every matrix of a block has an axis of the mesh axis tensor; the vocabulary is spread over it too."""
    made = jax.eval_shape(Amateur(backbone=VIT, **TOWERS).init, jax.random.key(0), pairs(size=16))
    boxes = jax.tree.leaves_with_path(
        made["params"], is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
    )
    axes = {jax.tree_util.keystr(path, simple=True, separator="/"): box for path, box in boxes}
    wide = {name for name, axis in mesh_lib.LOGICAL_AXES.items() if axis == "tensor"}
    kernels = [n for n in axes if n.endswith("kernel") and "blocks_" in n and n.startswith("text")]
    assert len(kernels) == 4 * TEXT["layers"]
    for name in (*kernels, "text/token_embedding", "word_head/kernel"):
        assert wide & set(axes[name].names), name
