"""The expert's contract: what it declares, each source's loss by hand, parts that are held, and refused classes."""

import jax
import numpy as np
import pytest
from tiny_batches import CLASSES, CONVOLUTIONS, abstract, drawn, fit, labelled, quick_jit, seen

from intern_jax.core import averages, tree
from intern_jax.core.config import UserError
from intern_jax.stages.expert import Expert
from intern_jax.train.stage import Role

SILOG = {"depth": {"fn": "intern_jax.losses.depth:silog", "focus": 0.5}}


def expert(**settings) -> Expert:
    return Expert(**{"backbone": CONVOLUTIONS, "classes": CLASSES, "dense_width": 8} | settings)


@pytest.fixture(scope="module")
def measured():
    """An expert of both families, its variables and batch, what it predicts, and its measures of the batch."""
    stage, batch = expert(), labelled()
    batch["dense"]["mask"][:, :5] = 255
    params, extra = drawn(stage, batch)
    outputs = jax.device_get(quick_jit(stage.predict)(params, extra, batch))
    measure = quick_jit(lambda batch: stage.measure(params, extra, batch))
    return stage, params, extra, batch, outputs, measure


def cross_entropies(logits, label):
    logits = logits.astype(np.float64)
    picked = np.take_along_axis(logits, label[..., None].astype(int), -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - picked


def test_every_head_answers_for_every_row(measured):
    _, _, _, _, outputs, _ = measured
    shapes = jax.tree.map(np.shape, outputs)
    assert shapes["cls"] == {"letters": (8, 5), "digits": (8, 3)}
    assert shapes["dense"] == {
        "scenes": (8, 32, 32, 4),
        "rooms": (8, 32, 32, 3),
        "depth": (8, 32, 32, 1),
    }


def test_each_term_is_the_mean_over_its_sources_own_rows(measured):
    _, _, _, batch, outputs, measure = measured
    found = measure(batch)
    rows, maps = batch["cls"], batch["dense"]
    assert set(found) == {
        *("letters", "digits", "letters_top1", "digits_top1"),
        *("scenes", "rooms", "scenes_pixels", "rooms_pixels", "depth"),
    }
    for source, name in enumerate(("letters", "digits")):
        mine = rows["source"] == source
        logits, label = outputs["cls"][name][mine], rows["label"][mine]
        assert float(found[name].count) == mine.sum() == 4
        wanted = cross_entropies(logits, label).mean(), (logits.argmax(-1) == label).mean()
        got = [float(averages.value(found[n])) for n in (name, f"{name}_top1")]
        np.testing.assert_allclose(got, wanted, rtol=1e-4)
    for source, name in enumerate(("scenes", "rooms")):
        known = (maps["source"] == source)[:, None, None] & (maps["mask"] != 255)
        logits, mask = outputs["dense"][name][known], maps["mask"][known]
        assert float(found[name].count) == known.sum() == 4 * 27 * 32
        wanted = cross_entropies(logits, mask).mean(), (logits.argmax(-1) == mask).mean()
        got = [float(averages.value(found[n])) for n in (name, f"{name}_pixels")]
        np.testing.assert_allclose(got, wanted, rtol=1e-4)
    valid = maps["depth_valid"]
    apart = np.abs(outputs["dense"]["depth"][..., 0] - np.log(maps["depth"]))[valid]
    assert float(found["depth"].count) == valid.sum()
    assert float(averages.value(found["depth"])) == pytest.approx(apart.mean(), rel=1e-4)


def test_a_source_without_rows_counts_nothing(measured):
    _, _, _, batch, _, measure = measured
    absent = {"cls": batch["cls"] | {"source": np.zeros(8, np.int32)}, "dense": batch["dense"]}
    found = measure(absent)
    assert float(found["digits"].count) == 0 and float(averages.value(found["digits"])) == 0
    assert float(found["letters"].count) == 8


def test_groups_of_one_family_share_heads_and_add_up(measured):
    _, params, extra, batch, _, measure = measured
    halves = {
        name: {field: value[part] for field, value in batch["cls"].items()}
        for name, part in (("cls", slice(0, 3)), ("cls_small", slice(3, 8)))
    }
    both = expert(classes={"cls": CLASSES["cls"], "cls_small": CLASSES["cls"]})
    mine = tree.names(abstract(both, halves)["params"])
    heads = {name.split("/")[0] for name in mine if name.startswith("heads_")}
    assert heads == {"heads_letters", "heads_digits"}
    found = quick_jit(lambda batch: both.measure(params, extra, batch))(halves)
    whole = measure(batch)
    for name, average in found.items():
        np.testing.assert_allclose(
            [average.total, average.count], [whole[name].total, whole[name].count], rtol=1e-4
        )


def test_held_statistics_make_training_mode_evaluation_mode_and_keep_every_collection(measured):
    _, params, extra, batch, _, measure = measured
    stage = expert()
    from intern_jax.core.statistics import held_still

    @quick_jit
    def loss(batch):
        with held_still(".*"):
            return stage.loss(seen(params, extra, batch))

    terms, (new, metrics) = loss(batch)
    wanted = measure(batch)
    for name, average in {**terms, **metrics}.items():
        np.testing.assert_allclose(average.total, wanted[name].total, rtol=1e-4, err_msg=name)
    before, after = tree.names(extra), tree.names(new)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_pass_of_one_family_keeps_the_other_familys_statistics():
    stage, batch = expert(), labelled()
    params, extra = drawn(stage, batch)
    _, (new, _) = quick_jit(lambda b: stage.loss(seen(params, extra, b)))({"cls": batch["cls"]})
    before, after = tree.names(extra), tree.names(new)
    assert before.keys() == after.keys()
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved and all(name.startswith("batch_stats/backbone/") for name in moved)
    assert any(name.startswith("batch_stats/decoder/") for name in before)


def test_only_the_heads_learn_where_the_backbone_is_held():
    stage = expert(trainable="(?!backbone/)", still="backbone/", classes={"cls": CLASSES["cls"]})
    batch = labelled(groups=("cls",))
    source = {
        f"backbone/{collection}/{name}": np.asarray(value)
        for collection, part in zip(("params", "batch_stats"), drawn(stage, batch), strict=True)
        for name, value in tree.names(part.get(collection, part)).items()
        if name.startswith("backbone/")
    }
    result = fit(stage, batch, 2, source)
    now = {"params": result.state.params, **result.state.extra}
    after = tree.names(now)
    assert {f"backbone/{n}" for n in after if "/backbone/" in n} == source.keys()
    for name, value in source.items():
        np.testing.assert_array_equal(after[name.removeprefix("backbone/")], value, err_msg=name)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    # What does not learn has no moments.
    moments = [x for x in jax.tree.leaves(result.state.opt_state) if x.ndim == 2]
    assert {x.shape for x in moments} == {(8, 5), (8, 3)}


def test_another_loss_takes_the_place_of_its_tasks_own(measured):
    _, params, extra, batch, outputs, measure = measured
    stage = expert(losses=SILOG)
    assert "intern_jax.losses.depth:silog" in stage.functions
    found = quick_jit(lambda batch: stage.measure(params, extra, batch))(batch)
    valid = batch["dense"]["depth_valid"]
    d = (outputs["dense"]["depth"][..., 0] - np.log(batch["dense"]["depth"]))[valid].astype(
        np.float64
    )
    wanted = np.sqrt((d**2).mean() - 0.5 * d.mean() ** 2)
    assert float(averages.value(found["depth"])) == pytest.approx(wanted, rel=1e-4)
    before = measure(batch)
    assert float(found["scenes"].total) == pytest.approx(float(before["scenes"].total), rel=1e-6)


def test_it_says_what_it_reads_and_what_it_starts_from():
    stage = expert()
    assert stage.kinds == ("cls", "dense", "detection", "segmentation", "depth")
    assert stage.roles == {"backbone": Role()}
    assert not stage.batch_coupled and not stage.cached
    target = abstract(stage, labelled())
    source = {f"backbone/{n}": v for n, v in tree.names(target).items() if "/backbone/" in n}
    origins, report = tree.matches(target, source, stage.graft)
    assert origins == {name.removeprefix("backbone/"): name for name in source}
    assert all(name.split("/")[1].startswith(("heads_", "decoder")) for name in report.missing)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": {"cls": [("a", 3), ("a", 3)]}}, r"data\.cls: two sources are called 'a'"),
        (
            {"classes": {"cls": [("a", 3)], "cls_small": [("a", 4)]}},
            r"data\.cls_small: source 'a' has 4 classes, in another group 3",
        ),
        (
            {"classes": {"cls": [("rooms", 3)], "dense": [("rooms", 3)]}},
            r"data: 'rooms' names a source of cls groups and a term of the dense groups",
        ),
        ({"classes": {"cls": [("depth", 3)]}}, r"data: 'depth' names a source of cls groups"),
        (
            {"losses": {"pairs": {"fn": "intern_jax.losses.depth:silog"}}},
            r"stage\.losses\.pairs: no such task or source; known: classification, detection, segmentation, depth",
        ),
    ],
)
def test_classes_and_losses_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        expert(**settings)
