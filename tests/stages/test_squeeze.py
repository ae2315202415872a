"""Squeeze: a student of frozen teachers. What is imitated, by which loss, and that teachers stay as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from tiny_batches import (
    CLASSES,
    CONVOLUTIONS,
    TEXT,
    Fixed,
    abstract,
    drawn,
    labelled,
    pairs,
    quick_jit,
    seen,
)

from intern_jax.core import averages, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.ops.images import normalise
from intern_jax.stages.expert import Expert
from intern_jax.stages.generalist import Generalist
from intern_jax.stages.squeeze import Squeeze
from intern_jax.train import loop, optim, settings
from intern_jax.train import state as state_lib
from intern_jax.train.stage import Role
from intern_jax.train.step import make_step

GENERALIST = {"name": "generalist", "branch": CONVOLUTIONS}
WIDE = CONVOLUTIONS | {"channels": (8, 16, 24, 16)}


def squeeze(imitate=None, teachers=None, **settings) -> Squeeze:
    given = {"backbone": WIDE, "classes": CLASSES, "dense_width": 8}
    imitate = {"teachers": {"generalist": []}} | (imitate or {})
    imitate |= {} if imitate.get("form") == "mgd" else {"hidden": 8}
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


@pytest.mark.medium
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


@pytest.mark.medium
def test_a_teachers_own_branch_alone_sees_a_kinds_pictures(generalist):
    stage, batch = squeeze({"branches": "own"}), labelled()
    _, extra, (_, (new, _)) = run(stage, {"generalist": generalist}, batch)
    before, after = tree.names(extra["standardisation"]), tree.names(new["standardisation"])
    assert {int(v - before[n]) for n, v in after.items() if n.endswith("count")} == {1}


@pytest.mark.medium
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


@pytest.mark.medium
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


@pytest.mark.medium
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


@pytest.mark.medium
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
        ({"imitate": {"mask": 0.5}}, "stage.imitate.mask: has no effect in the form 'standard'"),
        ({"imitate": {"temperature": 2.0}}, "stage.imitate.temperature: has no effect without"),
        ({"imitate": {"teachers": {"a": ["depth"]}}}, "teachers.a: the data has no group of kind"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(UserError, match=message):
        squeeze(**settings)
    with pytest.raises(UserError, match=r"stage\.imitate: missing; name teachers"):
        Squeeze(WIDE, CLASSES)


@pytest.mark.medium
def test_a_killed_squeeze_goes_on_bit_for_bit(tmp_path):
    """Parameters, moments, averages of the teachers' statistics and the moving average of the weights."""
    teacher = Expert(CONVOLUTIONS, {"cls": CLASSES["cls"]}, dense_width=8)
    batch = labelled(groups=("cls",))
    params, extra = drawn(teacher, batch, seed=5)

    def run(steps, workdir):
        stage = Squeeze(
            CONVOLUTIONS,
            {"cls": CLASSES["cls"]},
            {"teachers": {"expert": []}, "hidden": 8, "logits": True},
            teachers={"expert": CONVOLUTIONS},
        )
        stage.frozen = {"expert": {"params": params, **extra}}
        optim = {"name": "adamw", "learning_rate": 1e-2, "schedule": "constant"}
        cfg = {"optim": optim, "steps": steps, "checkpoint_every": 2, "ema_decay": 0.9}
        mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
        state = loop.fit(stage, Fixed(batch), cfg, mesh, workdir).state
        flat = jax.tree_util.tree_flatten_with_path(state)[0]
        return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}

    whole = run(4, None)
    run(2, tmp_path)
    again = run(4, tmp_path)
    assert whole.keys() == again.keys()
    assert [name for name in whole if "standardisation" in name and "count" in name]
    for name, value in whole.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)


@pytest.mark.medium
def test_the_student_serves_every_head():
    """Zero-shot text, classes, boxes, masks and depth, on one plain backbone."""
    dense = labelled()["dense"]
    image = dense["image"]
    batch = {
        **labelled(groups=("cls",)),
        **pairs(),
        "detection": _objects(rows=8, size=32),
        "segmentation": {name: dense[name] for name in ("image", "mask", "source")},
        "depth": {name: dense[name] for name in ("image", "depth", "depth_valid", "source")},
    }
    classes = {
        "cls": CLASSES["cls"],
        "pairs": [("web", 0)],
        "detection": [("things", 4)],
        "segmentation": CLASSES["dense"],
        "depth": [("near", 0), ("far", 0)],
    }
    four = {
        "name": "generalist",
        "branches": ("cls", "detection", "segmentation", "depth"),
        "branch": CONVOLUTIONS,
    }
    heads = {
        "detection": {"name": "fcos", "settings": {"width": 8, "depth": 1, "levels": 3}},
        "segmentation": {"settings": {"width": 8}},
        "depth": {"settings": {"width": 8}},
    }
    text = {"text": TEXT, "embed_dim": 16, "simsiam_hidden": 16, "bank": {"size": 32}}
    stage = Squeeze(
        WIDE,
        classes,
        {"teachers": {"generalist": []}, "hidden": 8, "branches": "own", "logits": True},
        teachers={"generalist": four},
        heads=heads,
        pairs=text,
    )
    teacher = Generalist(four, classes, heads=heads, pairs=text)
    assert stage.roles["towers"] == Role()
    variables = abstract(stage, batch)
    frozen = {"generalist": abstract(teacher, batch)}
    params = variables.pop("params")

    def loss(params, extra, frozen):
        return stage.loss(seen(params, extra, batch).replace(frozen=frozen))[0]

    terms = set(jax.eval_shape(loss, params, variables, frozen))
    named = {"letters", "digits", "things", "scenes", "rooms", "near", "far"}
    assert terms == {"clip", "simsiam", "words", "neighbours", "features"} | named | {
        f"{name}_logits" for name in named
    }
    out = jax.eval_shape(
        stage.predict, params, variables, {n: batch[n] for n in batch if n != "pairs"}
    )
    assert set(out) == {"cls", "detection", "segmentation", "depth"}
    texts = {"image": image, "tokens": batch["pairs"]["tokens1"]}
    assert jax.eval_shape(stage.predict, params, variables, texts)


@pytest.mark.medium
def test_a_teacher_teaches_the_kinds_that_are_named_alone(generalist):
    stage = squeeze({"teachers": {"generalist": ["cls"]}, "logits": True})
    _, _, (terms, _) = run(stage, {"generalist": generalist}, labelled())
    assert {name for name in terms if name.endswith("_logits")} == {
        "letters_logits",
        "digits_logits",
    }


@pytest.mark.medium
def test_a_head_of_other_settings_is_refused(generalist):
    wide = dict(generalist["params"], decoder={"other": jnp.zeros(3)})
    with pytest.raises(
        UserError, match="logits: the head 'decoder' of 'generalist' has other sources"
    ):
        run(squeeze({"logits": True}), {"generalist": generalist | {"params": wide}}, labelled())


def test_dense_sources_in_another_order_are_refused():
    stage = squeeze({"logits": True})
    scenes, rooms = {"fn": "a:b", "name": "scenes", "weight": 0.3}, {"fn": "a:b", "name": "rooms"}
    own = {"cls": {"sources": []}, "dense": {"sources": [scenes, rooms]}}
    stage.check_roles(
        {"": own, "generalist": {"dense": {"sources": [scenes | {"weight": 1}, rooms]}}}
    )
    with pytest.raises(UserError, match="dense sources of 'generalist' are others"):
        stage.check_roles({"": own, "generalist": {"dense": {"sources": [rooms, scenes]}}})


@pytest.mark.medium
def test_what_lies_outside_of_a_picture_is_not_imitated():
    """A detection row's maps beside its picture change neither loss nor statistics."""
    batch = {"detection": _objects(rows=4, size=64)}
    batch["detection"]["extent"] = np.full((4, 2), 32, np.int32)
    classes = {"detection": [("things", 4)]}
    heads = {"detection": {"name": "fcos", "settings": {"width": 8, "depth": 1, "levels": 3}}}
    imitate = {"teachers": {"expert": []}, "maps": ["layer1"], "summary": False, "ladder": False}
    stage = Squeeze(CONVOLUTIONS, classes, imitate, heads=heads, teachers={"expert": CONVOLUTIONS})
    teacher = Expert(CONVOLUTIONS, classes, heads=heads)
    params, extra = drawn(teacher, batch, seed=2)
    _, _, (terms, (new, _)) = run(stage, {"expert": {"params": params, **extra}}, batch)
    arrays = {"params": params, **extra}
    own = {name: part["backbone"] for name, part in arrays.items() if "backbone" in part}
    small = jnp.asarray(batch["detection"]["image"][:, :32, :32])
    seen_alone = zoo.build(CONVOLUTIONS).apply(own, normalise(small), train=False)["layer1"]
    flat = np.asarray(seen_alone).reshape(-1, seen_alone.shape[-1])
    kept = new["standardisation"]["imitation"]["expert_layer1_standard"]
    np.testing.assert_allclose(kept["mean"], flat.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(kept["var"], flat.var(0), rtol=1e-3, atol=1e-4)
    assert np.isfinite(averages.value(terms["features"]))


@pytest.mark.medium
def test_accumulation_counts_the_kept_teachers_of_the_whole_batch(generalist):
    """The term of two micro-batches is the mean over all that count; each updates the statistics once."""
    stage, batch = squeeze(), labelled(rows=8)
    params, extra = drawn(stage, batch)
    stage.frozen = {"generalist": generalist}
    tx = optim.build(settings.check({"optim": {"learning_rate": 0.0}, "steps": 1})["optim"])
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    _, abstract_state = state_lib.create(stage, tx, mesh, batch, False)
    step = make_step(stage, tx, accumulate=2)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), abstract_state)
    state = zeros.replace(params=params, extra=extra)
    new, scalars = step(state, stage.frozen, batch, jax.random.key(0), {"main": jnp.zeros(())})
    assert 0 < float(scalars["features"]) < 10
    counts = [v for n, v in tree.names(new.extra["standardisation"]).items() if n.endswith("count")]
    assert {int(one) for one in counts} == {4}  # two groups, two micro-batches


def test_an_experts_teacher_of_a_generalist_is_bound_beside_its_branches():
    """The start and the teachers of the example in docs/generalist.md."""
    imitate = {"teachers": {"old_cls": ["cls"], "old_dense": ["dense"]}, "branches": "own"}
    old = {"old_cls": CONVOLUTIONS, "old_dense": CONVOLUTIONS}
    stage = Generalist(GENERALIST, CLASSES, dense_width=8, imitate=imitate, teachers=old)
    assert set(stage.roles) == {"cls", "dense", "old_cls", "old_dense"}
    named = {template.partition("/")[0] for _, template in stage.graft}
    # No rule takes its role from a group, so frozen roles are known to be no start (pipeline/products.py).
    assert named == {"cls", "dense"}
    with pytest.raises(UserError, match=r"teachers\.cls: the stage starts from"):
        Generalist(
            GENERALIST,
            CLASSES,
            imitate={"teachers": {"cls": []}},
            teachers={"cls": CONVOLUTIONS},
        )


def _objects(rows, size):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (rows, size, size, 3)).astype(np.uint8),
        "source": np.zeros(rows, np.int32),
        "boxes": rng.uniform(0, 32, (rows, 3, 4)).astype(np.float32),
        "box_labels": np.zeros((rows, 3), np.int32),
        "box_valid": np.ones((rows, 3), bool),
        "box_ignore": np.zeros((rows, 3), bool),
        "extent": np.full((rows, 2), size, np.int32),
    }
