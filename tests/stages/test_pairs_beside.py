"""An expert that keeps the amateur's losses: terms of both, one backbone, towers that start from the amateur's."""

import types

import numpy as np
import pytest
from tiny_batches import (
    CLASSES,
    CONVOLUTIONS,
    TEXT,
    abstract,
    drawn,
    fit,
    labelled,
    pairs,
    quick_jit,
    seen,
)

from intern_jax.core import averages, tree
from intern_jax.core.config import UserError
from intern_jax.pipeline.scores import text_tower
from intern_jax.stages.amateur import Amateur
from intern_jax.stages.expert import Expert
from intern_jax.stages.generalist import Generalist

SETTINGS = {"text": TEXT, "embed_dim": 16, "simsiam_hidden": 16, "bank": {"size": 32}}
CLS = {"cls": CLASSES["cls"], "pairs": [("web", 0)]}


def expert(**settings) -> Expert:
    return Expert(CONVOLUTIONS, **{"classes": CLS, "pairs": SETTINGS} | settings)


def both() -> dict:
    return labelled(groups=("cls",)) | pairs()


@pytest.mark.medium
def test_its_terms_are_those_of_the_expert_and_of_the_amateur():
    stage, amateur, batch = expert(), Amateur(CONVOLUTIONS, **SETTINGS), both()
    params, extra = drawn(stage, batch)
    terms, (new, metrics) = quick_jit(lambda b: stage.loss(seen(params, extra, b)))(batch)
    assert terms.keys() == {"letters", "digits", "clip", "simsiam", "words", "neighbours"}
    assert {"letters_top1", "scale", "retrieval", "spread"} <= metrics.keys()
    assert new.keys() == extra.keys() and "bank" in new
    mine = tree.names(abstract(amateur, pairs()))
    own = tree.names({"params": params, **extra})
    held = tree.unflatten({name: own[name] for name in mine})
    held_params = held.pop("params")
    wanted, _ = quick_jit(lambda b: amateur.loss(seen(held_params, held, b)))(pairs())
    for name, term in wanted.items():
        found = float(averages.value(terms[name]))
        # The labelled pass comes first and moves the running statistics, which training does not read.
        assert found == pytest.approx(float(averages.value(term)), rel=1e-4), name
    assert stage.weights == amateur.weights and stage.limits == amateur.limits


@pytest.mark.medium
def test_both_reach_the_backbone_and_it_trains():
    stage, batch = expert(weights={"clip": 1.0}), both()
    assert stage.weights["clip"] == 1.0 and stage.batch_coupled
    result = fit(stage, batch, 4)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    state = result.state
    embedded = stage.predict(state.params, state.extra, {"tokens": batch["pairs"]["tokens2"]})
    np.testing.assert_allclose(np.linalg.norm(embedded["text"], axis=-1), 1, rtol=1e-5)
    out = stage.predict(state.params, state.extra, batch)
    assert set(out) == {"cls"}


def test_its_towers_start_from_the_amateur():
    amateur, stage = Amateur(CONVOLUTIONS, **SETTINGS), expert()
    source = {f"backbone/{n}": v for n, v in tree.names(abstract(amateur, pairs())).items()}
    origins, report = tree.matches(abstract(stage, both()), source, stage.graft)
    assert set(source) - set(origins.values()) == {"backbone/bank/pointer", "backbone/bank/rows"}
    assert {name.split("/")[1].split("_")[0] for name in report.missing} == {
        "heads",
        "pointer",
        "rows",
    }


def test_a_generalist_keeps_them_too():
    spec = {"name": "generalist", "branch": CONVOLUTIONS}
    stage = Generalist(spec, classes=CLASSES | {"pairs": [("web", 0)]}, pairs=SETTINGS)
    batch = labelled() | pairs()
    names = {name.split("/")[1] for name in tree.names(abstract(stage, batch))}
    assert {"text", "image_projection", "decoder", "heads_letters"} <= names
    assert any(template.startswith("cls/") and "text" in regex for regex, template in stage.graft)
    stage.check_data({name: {"transform": {"fn": "x", "mask": 0.1}} for name in batch})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": {"text": TEXT, "embed": 3}}, r"stage\.pairs\.embed: did you mean embed_dim"),
        ({"pairs": {}}, r"stage\.pairs\.text: missing"),
        ({"pairs": "yes"}, r"stage\.pairs: 'yes'; write"),
        (
            {"classes": {"cls": [("clip", 3)]}},
            r"data: 'clip' names a source and a term of the pairs",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        expert(**settings)


def test_a_config_without_pairs_is_refused():
    with pytest.raises(UserError, match=r"data: no group of pairs, which stage\.pairs learns from"):
        expert().check_data({"cls": {}})
    assert "pairs" not in Expert(CONVOLUTIONS, classes={"cls": CLASSES["cls"]}).kinds


def test_accumulation_is_refused():
    from intern_jax.train.step import check_accumulation

    with pytest.raises(UserError, match="couples the rows of a batch"):
        check_accumulation(expert(), 2)


def test_its_text_tower_is_read_as_an_amateurs_is():
    stage, batch = expert(), both()
    params, _ = drawn(stage, batch)
    transform = {"fn": "intern_jax.data.make.pairs:PairViews", "tokenizer": "embedded"}
    spec = {"fn": "intern_jax.stages.expert:Expert", "pairs": SETTINGS}
    groups = {"cls": {"transform": {}}, "pairs": {"transform": transform}}
    settings = {"joint": {"stage": spec, "data": groups, "start": {}}}
    arrays = {f"params/{name}": np.asarray(x) for name, x in tree.names(params).items()}
    products = {"joint": types.SimpleNamespace(variables=arrays, spec=CONVOLUTIONS)}
    tower = text_tower(settings, products, "joint")
    assert tower is not None and tower.tokenizer == "embedded"
    tokens = batch["pairs"]["tokens2"]
    wanted = stage.predict(params, {}, {"tokens": tokens})["text"]
    np.testing.assert_allclose(tower.embedded(tokens), wanted, rtol=1e-4, atol=1e-5)
