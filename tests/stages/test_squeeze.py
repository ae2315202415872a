"""Squeeze: a student of frozen teachers. What is imitated, by which loss, and that teachers stay as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from tiny_batches import CLASSES, CONVOLUTIONS, abstract, drawn, labelled, quick_jit, seen

from intern_jax.core import averages, tree
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.stages.expert import Expert
from intern_jax.stages.generalist import Generalist
from intern_jax.stages.squeeze import Squeeze
from intern_jax.train.stage import Role

GENERALIST = {"name": "generalist", "branch": CONVOLUTIONS}
WIDE = CONVOLUTIONS | {"channels": (8, 16, 24, 16)}


def squeeze(imitate=None, teachers=None, **settings) -> Squeeze:
    given = {"backbone": WIDE, "classes": CLASSES, "dense_width": 8}
    imitate = {"teachers": {"generalist": []}, "hidden": 8} | (imitate or {})
    teachers = {"generalist": GENERALIST} if teachers is None else teachers
    return Squeeze(**given | {"imitate": imitate, "teachers": teachers} | settings)


@pytest.fixture(scope="module")
def generalist():
    stage = Generalist(GENERALIST, CLASSES, dense_width=8)
    params, extra = drawn(stage, labelled(), seed=3)
    return {"params": params, **extra}


def run(stage, frozen, batch, seed=0):
    params, extra = drawn(stage, batch, seed)

    @quick_jit
    def loss(params, extra, frozen):
        return stage.loss(seen(params, extra, batch).replace(frozen=frozen))

    return params, extra, loss(params, extra, frozen)


def test_terms_are_the_labels_losses_and_the_teachers(generalist):
    stage, batch = squeeze({"logits": True}), labelled()
    _, extra, (terms, (new, metrics)) = run(stage, {"generalist": generalist}, batch)
    labels = {"letters", "digits", "scenes", "rooms", "depth"}
    assert set(terms) == labels | {"features"} | {f"{name}_logits" for name in labels}
    assert all(np.isfinite(averages.value(one)) for one in terms.values())
    targets = ("features_generalist_cls", "features_generalist_dense")
    assert set(targets) <= set(metrics)
    before, after = tree.names(extra["standardisation"]), tree.names(new["standardisation"])
    assert before.keys() == after.keys()
    # Both groups' pictures go to both branches.
    assert {int(v - before[n]) for n, v in after.items() if n.endswith("count")} == {2}


def test_a_teachers_own_branch_alone_sees_a_kinds_pictures(generalist):
    stage, batch = squeeze({"branches": "own"}), labelled()
    _, extra, (_, (new, _)) = run(stage, {"generalist": generalist}, batch)
    before, after = tree.names(extra["standardisation"]), tree.names(new["standardisation"])
    assert {int(v - before[n]) for n, v in after.items() if n.endswith("count")} == {1}


def test_the_features_term_is_that_of_independent_forms(monkeypatch):
    """Standard form, one plain teacher, in float64: standardisation, cosine and smooth L1, projectors."""
    precise = lambda x: (jnp.asarray(x, jnp.float64) - 127.5) / 64  # noqa: E731
    monkeypatch.setattr("intern_jax.stages.expert.normalise", precise)
    with jax.enable_x64(True):
        teacher = Expert(CONVOLUTIONS, {"cls": CLASSES["cls"]}, dense_width=8)
        batch = labelled(groups=("cls",))
        settings = {"teachers": {"expert": []}, "maps": ["layer4"], "ladder": False, "keep": 1.0}
        stage = Squeeze(
            CONVOLUTIONS, {"cls": CLASSES["cls"]}, settings, teachers={"expert": CONVOLUTIONS}
        )
        wide = lambda t: jax.tree.map(  # noqa: E731
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, t
        )
        frozen = dict(zip(("params", "extra"), map(wide, drawn(teacher, batch, 3)), strict=True))
        frozen = {"params": frozen["params"], **frozen["extra"]}
        params, extra = map(wide, drawn(stage, batch))
        extra["standardisation"] = jax.tree.map(jnp.zeros_like, extra["standardisation"])
        context = seen(params, extra, batch).replace(frozen={"expert": frozen})
        terms, (new, _) = jax.jit(stage.loss)(context)
        images = precise(batch["cls"]["image"])
        network = zoo.build(CONVOLUTIONS)
        theirs = network.apply(
            {n: a["backbone"] for n, a in frozen.items() if "backbone" in a}, images, train=False
        )
        own = {n: a["backbone"] for n, a in {"params": params, **extra}.items() if "backbone" in a}
        mine, _ = network.apply(own, images, train=True, mutable=["batch_stats"])
        total = 0.0
        for name in ("pooled", "layer4"):
            t, s = (np.asarray(x[name], np.float64) for x in (theirs, mine))
            flat = t.reshape(-1, t.shape[-1])
            z = (t - flat.mean(0)) / np.maximum(flat.std(0), 1e-3)
            kept = new["standardisation"]["imitation"][f"expert_{name}_standard"]
            np.testing.assert_allclose(kept["mean"], flat.mean(0), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(kept["var"], flat.var(0), rtol=1e-9, atol=1e-12)
            mlp = jax.tree.map(np.asarray, params["imitation"][f"expert_{name}"]["own"])
            hidden = s @ mlp["expand"]["kernel"] + mlp["expand"]["bias"]
            hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
            p = s + hidden @ mlp["project"]["kernel"] + mlp["project"]["bias"]
            cosine = (p * z).sum(-1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(z, axis=-1)
            apart = np.abs(p - z)
            smooth = np.where(apart < 1, 0.5 * apart**2, apart - 0.5).mean(-1)
            each = 0.5 * (1 - cosine) + 0.5 * smooth
            total = total + each.reshape(len(each), -1).mean(1)
        np.testing.assert_allclose(averages.value(terms["features"]), (total / 2).mean(), rtol=1e-9)


def test_teachers_get_no_gradient_and_have_no_part_in_the_state(generalist):
    stage, batch = squeeze({"logits": True}), labelled()
    params, extra = drawn(stage, batch)
    assert stage.roles == {"backbone": Role(), "generalist": Role(frozen=True)}

    @quick_jit
    @jax.grad
    def gradient(frozen):
        terms, _ = stage.loss(seen(params, extra, batch).replace(frozen={"generalist": frozen}))
        return sum(averages.value(one) for one in terms.values())

    assert not any(np.any(g) for g in jax.tree.leaves(gradient(generalist)))
    names = tree.names(abstract(stage, batch))
    assert not [n for n in names if "/cls/" in n or "/dense/" in n or "transfer" in n]


@pytest.mark.parametrize("form", ["fitnets", "mgd"])
def test_other_forms(form, generalist):
    maps = ["layer4"]
    stage, batch = squeeze({"form": form, "maps": maps}), labelled()
    params, _, (terms, (new, _)) = run(stage, {"generalist": generalist}, batch)
    assert float(averages.value(terms["features"])) > 0
    assert "standardisation" not in new
    modules = set(params["imitation"])
    outputs = ("layer4",) if form == "mgd" else ("layer4", "pooled")
    assert modules == {f"generalist_{b}_{o}" for b in ("cls", "dense") for o in outputs}


def test_experts_directly_are_the_control():
    experts = {}
    for kind in ("cls", "dense"):
        stage = Expert(CONVOLUTIONS, {kind: CLASSES[kind]}, dense_width=8)
        params, extra = drawn(stage, labelled(groups=(kind,)), seed=4)
        experts[kind] = {"params": params, **extra}
    imitate = {"teachers": {"cls": [], "dense": ["dense"]}, "logits": True}
    stage = squeeze(imitate, {"cls": CONVOLUTIONS, "dense": CONVOLUTIONS})
    _, _, (terms, (_, metrics)) = run(stage, experts, labelled())
    assert {"features_cls", "features_dense"} <= set(metrics)
    assert float(metrics["features_cls"].count) == 2 * float(metrics["features_dense"].count)
    assert {"letters_logits", "scenes_logits", "depth_logits"} <= set(terms)


def test_starts_from_merged_weights_and_from_a_squeeze():
    stage, batch = squeeze(), labelled()
    target = abstract(stage, batch)
    source = {f"backbone/{name}": leaf for name, leaf in tree.names(target).items()}
    origins, report = tree.matches(target, source, stage.graft)
    assert not report.missing and not report.unused
    assert all(origin == f"backbone/{name}" for name, origin in origins.items())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"imitate": {"teachers": {}}}, "stage.imitate.teachers"),
        ({"imitate": {"teachers": {"a": ["seg"]}}}, "stage.imitate.teachers.a: no kind 'seg'"),
        ({"imitate": {"form": "kd"}}, "stage.imitate.form"),
        ({"imitate": {"form": "mgd", "maps": []}}, "stage.imitate.maps: nothing is imitated"),
        ({"imitate": {"maps": ["layer5"]}}, "stage.imitate.maps"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(UserError, match=message):
        squeeze(**settings)
    with pytest.raises(UserError, match=r"stage\.imitate: missing; name teachers"):
        Squeeze(WIDE, CLASSES)
