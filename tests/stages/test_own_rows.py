"""Heads that run on their sources' own rows alone, families with groups of their own, and label spaces."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_detectors import TINY_RCNN
from tiny_batches import CLASSES, CONVOLUTIONS, abstract, drawn, fit, labelled, quick_jit, seen

from intern_jax.core import averages, tree
from intern_jax.core.config import UserError
from intern_jax.ops.images import normalise
from intern_jax.stages.expert import Expert
from intern_jax.tasks.labelled import mixed_rows
from intern_jax.tasks.spaces import Space

HALF = {
    group: lambda parts: [4 // parts, 4 // parts]
    for group in ("cls", "dense", "segmentation", "depth")
}


def expert(classes=CLASSES, **settings) -> Expert:
    return Expert(CONVOLUTIONS, classes, **{"dense_width": 8} | settings)


def terms_of(stage, params, extra, batch):
    terms, (new, metrics) = quick_jit(lambda b: stage.loss(seen(params, extra, b)))(batch)
    return {n: float(averages.value(a)) for n, a in {**terms, **metrics}.items()}, new


def test_own_rows_give_the_losses_of_all_rows_with_the_others_left_out():
    whole, own, batch = expert(), expert(most_rows=HALF), labelled()
    params, extra = drawn(whole, batch)
    wanted, changed = terms_of(whole, params, extra, batch)
    found, new = terms_of(own, params, extra, batch)
    assert found.pop("cls_lost_rows") == found.pop("dense_lost_rows") == 0
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
    for name, value in tree.names(changed).items():
        np.testing.assert_allclose(tree.names(new)[name], value, rtol=1e-5, err_msg=name)


def test_a_head_computes_its_own_rows_alone():
    own, batch = expert(classes={"cls": CLASSES["cls"]}, most_rows=HALF), labelled(groups=("cls",))
    params, extra = drawn(own, batch)
    found, shapes = own.sets.own("cls", batch["cls"]), []
    out = jax.eval_shape(
        lambda b: own.model.apply(
            {"params": params, **extra}, b["image"] / 255.0, "cls", own=found
        ),
        batch["cls"],
    )
    shapes = {name: x.shape for name, x in out.items()}
    assert shapes == {"letters": (4, 5), "digits": (4, 3)}


FAMILIES = {"segmentation": CLASSES["dense"], "depth": [("far", 0), ("near", 0)]}
HEADS = {
    "segmentation": {
        "name": "deeplabv3",
        "settings": {"width": 8, "auxiliary_width": 8, "dilations": (1, 2), "dropout": 0.0},
    },
    "depth": {
        "name": "depth",
        "settings": {"width": 8, "bins": 16, "max_depth": 10.0},
        "sources": {"far": {"max_depth": 80.0}},
    },
}


def dense_groups():
    rows = labelled()["dense"]
    return {
        "segmentation": {n: rows[n] for n in ("image", "mask", "source")},
        "depth": {n: rows[n] for n in ("image", "depth", "source")}
        | {"depth_valid": np.ones_like(rows["depth_valid"])},
    }


@pytest.mark.medium
@pytest.mark.parametrize("most_rows", [None, HALF])
def test_segmentation_and_depth_have_heads_of_their_own(most_rows):
    stage = expert(FAMILIES, heads=HEADS, most_rows=most_rows)
    assert stage.batch_coupled  # silog
    assert stage.weights == {
        "scenes_auxiliary": 0.4,
        "rooms_auxiliary": 0.4,
        "far": 10.0,
        "near": 10.0,
    }
    batch = dense_groups()
    result = fit(stage, batch, 3)
    first, last = result.history[0], result.history[-1]
    names = {"scenes", "rooms", "scenes_auxiliary", "rooms_auxiliary", "far", "near"}
    assert names | {"scenes_pixels", "rooms_pixels", "loss"} <= first.keys()
    assert last["loss"] < first["loss"]
    assert not any("auxiliary/" in name for name in tree.names(result.state.extra))
    state = result.state
    out = jax.device_get(quick_jit(stage.predict)(state.params, state.extra, batch))
    metres = np.exp(out["depth"]["far"]), np.exp(out["depth"]["near"])
    # Metres: within its own limits, uniform bins at the start.
    assert (
        metres[0].shape == (8, 32, 32, 1)
        and 30 < metres[0].mean() < 50
        and 4 < metres[1].mean() < 6
    )
    assert out["segmentation"]["scenes"].shape == (8, 32, 32, 4)


def test_a_head_whose_source_has_no_row_keeps_its_statistics():
    stage = expert({"segmentation": CLASSES["dense"]}, heads=HEADS | {"depth": {}}, most_rows=HALF)
    batch = {"segmentation": dense_groups()["segmentation"]}
    batch["segmentation"]["source"] = np.zeros(8, np.int32)
    params, extra = drawn(stage, batch)
    found, new = terms_of(stage, params, extra, batch)
    before, after = tree.names(extra), tree.names(new)
    moved = {n.split("/")[1] for n in before if not np.array_equal(before[n], after[n])}
    assert moved == {"backbone", "own_segmentation_scenes"}
    assert found["rooms"] == 0 and found["scenes"] > 0


# --- label spaces -------------------------------------------------------------------------------

UNIFIED = {"letters": [0, 1, 2, 3, 4], "digits": [5, 1, 6]}  # they share place 1


def test_a_space_maps_labels_and_says_what_is_annotated():
    space = Space.of(UNIFIED, {"letters": 5, "digits": 3}, "stage.spaces.cls")
    rows = {"label": np.array([4, 2, 1, 0]), "source": np.array([0, 1, 1, -1])}
    found = space.rows(rows, ("letters", "digits"), 8)
    assert found["label"].tolist()[:3] == [4, 6, 1]
    assert [np.flatnonzero(row).tolist() for row in np.asarray(found["classes"])] == [
        [0, 1, 2, 3, 4],
        [1, 5, 6],
        [1, 5, 6],
        [],
    ]
    masks = {"mask": np.array([[[0, 255], [2, 1]]]), "source": np.array([1])}
    assert space.rows(masks, ("letters", "digits"), 7)["mask"].tolist() == [[[5, 255], [6, 1]]]
    # Nothing has the place that masks call no class.
    large = Space.of("partitioned", {"stuff": 150, "things": 171}, "")
    assert large.size == 322 and large.places["things"][104:107].tolist() == [254, 256, 257]
    rows = {"mask": np.array([[[105, 255]]]), "source": np.array([1])}
    assert large.rows(rows, ("stuff", "things"), 322)["mask"].tolist() == [[[256, 255]]]
    apart = Space.of("partitioned", {"letters": 5, "digits": 3}, "")
    assert apart.size == 8 and apart.places["digits"].tolist() == [5, 6, 7]


@pytest.mark.medium
def test_one_head_of_a_space_learns_each_source_among_its_own_classes(tmp_path):
    path = tmp_path / "space.json"
    path.write_text(json.dumps(UNIFIED))
    classes, batch = {"cls": CLASSES["cls"]}, labelled(groups=("cls",))
    stage = expert(classes, spaces={"cls": str(path)}, most_rows=HALF)
    params, extra = drawn(stage, batch)
    assert {n for n in params if n.startswith("heads")} == {"heads_shared"}
    found, _ = terms_of(stage, params, extra, batch)
    out = jax.device_get(quick_jit(stage.predict)(params, extra, batch))["cls"]
    assert {n: x.shape for n, x in out.items()} == {"letters": (8, 5), "digits": (8, 3)}
    measured = jax.device_get(stage.measure(params, extra, batch))
    for number, name in enumerate(("letters", "digits")):
        mine = batch["cls"]["source"] == number
        logits, label = out[name][mine].astype(np.float64), batch["cls"]["label"][mine]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        wanted = -log_p[np.arange(4), label].mean()
        assert float(averages.value(measured[name])) == pytest.approx(wanted, rel=1e-4)
    assert found.keys() == {"letters", "digits", "letters_top1", "digits_top1"}
    pictures = {"cls": {"image": batch["cls"]["image"]}}
    alone = stage.predict(params, extra, pictures)["cls"]["digits"]
    np.testing.assert_allclose(alone, out["digits"], rtol=1e-5, atol=1e-6)


def boxes(rows=4, room=3):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 16, (rows, room, 2)).astype(np.float32)
    return {
        "image": rng.integers(0, 256, (rows, 32, 32, 3)).astype(np.uint8),
        "boxes": np.concatenate([low, low + 12], -1),
        "box_labels": rng.integers(0, 2, (rows, room)).astype(np.int32),
        "box_valid": np.ones((rows, room), bool),
        "box_ignore": np.zeros((rows, room), bool),
        "extent": np.full((rows, 2), 32, np.int32),
        "source": (np.arange(rows) % 2).astype(np.int32),
    }


@pytest.mark.medium
@pytest.mark.parametrize(
    "head",
    [
        {"name": "fcos", "settings": {"width": 8, "depth": 1, "levels": 3, "least_score": 0.0}},
        {"name": "faster_rcnn", "settings": TINY_RCNN | {"least_score": 0.0}},
    ],
)
def test_a_partitioned_detector_never_answers_nor_learns_anothers_class(head):
    classes, batch = {"detection": [("pets", 2), ("cars", 3)]}, {"detection": boxes()}
    stage = expert(classes, heads={"detection": head}, spaces={"detection": "partitioned"})
    params, extra = drawn(stage, batch)
    assert {n for n in params if n.startswith("own_")} == {"own_detection_shared"}

    def of_one(params, batch):
        terms, _ = stage.loss(seen(params, extra, batch))
        return averages.value(terms["pets"])

    gradient = tree.names(quick_jit(jax.grad(of_one))(params, batch))
    ends = [n for n in gradient if n.endswith(("predict_class/kernel", "class_bias", "class/bias"))]
    assert ends
    for name in ends:
        moved = np.abs(np.asarray(gradient[name])).reshape(-1, gradient[name].shape[-1]).max(0) > 0
        # Two classes of its own, none of the other's three, and the background of two stages.
        assert moved.tolist() == [True, True, False, False, False] + [True] * (len(moved) - 5), name
    out = jax.device_get(quick_jit(stage.predict)(params, extra, batch))["detection"]
    for number, (name, k) in enumerate(classes["detection"]):
        found = out[name]["detections"][batch["detection"]["source"] == number]
        there = found[..., 4] > 0
        assert there.any() and set(np.unique(found[there][:, 5])) <= set(range(k))


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ({"clss": "partitioned"}, r"stage\.spaces\.clss: did you mean cls\?"),
        ({"cls": {"letters": [0, 1, 2, 3, 4]}}, r"stage\.spaces\.cls\.digits: has no places"),
        (
            {"cls": UNIFIED | {"digits": [0, 0, 1]}},
            r"stage\.spaces\.cls\.digits: two of its classes have one place",
        ),
        ({"cls": UNIFIED | {"digits": [0, 1]}}, r"digits: write the 3 places of its classes"),
        (
            {"cls": UNIFIED | {"signs": [0]}},
            r"stage\.spaces\.cls\.signs: is no source of this kind",
        ),
        ({"cls": "nothing.json"}, r"stage\.spaces\.cls: nothing\.json: .*; name a JSON file"),
    ],
)
def test_spaces_that_cannot_be_are_refused(spaces, message):
    with pytest.raises(UserError, match=message):
        expert({"cls": CLASSES["cls"]}, spaces=spaces)


def test_heads_of_many_classes_are_made_for_a_few_more():
    classes = {"cls": [("few", 3), ("many", 1300)]}
    stage, batch = expert(classes), labelled(groups=("cls",))
    shapes = tree.names(abstract(stage, batch)["params"])
    assert shapes["heads_many/classifier/kernel"].shape == (8, 1408)
    params, extra = drawn(stage, batch)
    out = stage.predict(params, extra, batch)["cls"]
    assert out["many"].shape == (8, 1300)
    # A bias that prefers what only fills the classifier changes nothing.
    found, _ = terms_of(stage, params, extra, batch)
    params["heads_many"]["classifier"]["bias"] = (
        params["heads_many"]["classifier"]["bias"].at[1300:].set(50.0)
    )
    assert terms_of(stage, params, extra, batch)[0] == found


# --- mixed pictures -----------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("most_rows", [None, HALF])
def test_mixed_pictures_count_for_both_labels(most_rows):
    batch = labelled(groups=("cls",))
    stage = expert({"cls": CLASSES["cls"]}, most_rows=most_rows, mixing={"each": "row"})
    params, extra = drawn(stage, batch)
    found, _ = terms_of(stage, params, extra, batch)
    rows, context = batch["cls"], seen(params, extra, batch)
    images, mixed = mixed_rows(context.key, normalise(rows["image"]), rows, stage.mixing)
    share = np.asarray(mixed["share"], np.float64)
    assert share.shape == (8,) and (share < 1).any()
    out, _ = stage.model.apply(
        {"params": params, **extra}, images, "cls", train=True, mutable=["batch_stats"]
    )
    for number, (name, _) in enumerate(CLASSES["cls"]):
        mine = np.flatnonzero(rows["source"] == number)
        logits = np.asarray(out[name], np.float64)[mine]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        # Within a source the order is reversed.
        both = rows["label"][mine], rows["label"][mine[::-1]]
        first, second = (-log_p[np.arange(4), label] for label in both)
        wanted = (share[mine] * first + (1 - share[mine]) * second).mean()
        assert found[name] == pytest.approx(wanted, rel=1e-4)


def test_mixing_that_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"stage\.mixing\.mixup: 0 and cutmix too"):
        expert(mixing={"mixup": 0.0, "cutmix": 0.0})
    losses = {"letters": {"fn": "intern_jax.losses.classification:sigmoid_of_ancestors"}}
    with pytest.raises(UserError, match=r"stage\.losses\.letters: takes no 'share'"):
        expert(losses=losses, mixing={})
    with pytest.raises(UserError, match=r"stage\.mixing: mixes pictures of cls groups"):
        expert({"dense": CLASSES["dense"]}, mixing={})


def plain_loss(logits, label, valid):
    """A loss that knows of no candidates."""
    picked = jnp.take_along_axis(logits, label[:, None], axis=1)[:, 0]
    return averages.mean(jax.nn.logsumexp(logits, axis=-1) - picked, valid)


def test_a_loss_that_knows_no_candidates_sees_the_classes_alone():
    own = {"many": {"fn": "test_own_rows:plain_loss"}}
    classes, batch = {"cls": [("few", 3), ("many", 1300)]}, labelled(groups=("cls",))
    found, params = [], None
    for losses in (None, own):
        stage = expert(classes, losses=losses)
        if params is None:
            params, extra = drawn(stage, batch)
        found.append(terms_of(stage, params, extra, batch)[0]["many"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    with pytest.raises(UserError, match=r"stage\.losses\.many: takes no 'classes'"):
        expert(classes, losses=own, spaces={"cls": "partitioned"})


def test_settings_of_sources_that_are_not_there_are_refused():
    heads = {"depth": HEADS["depth"]}
    with pytest.raises(UserError, match=r"stage\.heads\.depth\.sources\.far: known: near"):
        expert({"depth": [("near", 0)]}, heads=heads)
    heads = {"detection": {"name": "fcos", "sources": {"pets": {"width": 8}}}}
    with pytest.raises(UserError, match=r"sources\.pets: its sources share one head"):
        expert({"detection": [("pets", 2)]}, heads=heads, spaces={"detection": "partitioned"})


def test_a_loss_that_no_group_computes_couples_nothing():
    losses = {"depth": {"fn": "intern_jax.losses.depth:silog"}}
    assert not expert({"cls": CLASSES["cls"]}, losses=losses).batch_coupled
    assert expert({"dense": CLASSES["dense"]}, losses=losses).batch_coupled


@pytest.mark.medium
def test_a_slash_in_a_sources_name_is_none_in_its_parameters():
    batch = labelled(groups=("cls",)) | {"segmentation": dense_groups()["segmentation"]}
    sets = {"cls": [("letters/train", 5), ("digits", 3)], "segmentation": [("a/b", 4), ("c", 3)]}
    stage = expert(sets, heads={"segmentation": HEADS["segmentation"]}, most_rows=HALF)
    result = fit(stage, batch, 1)
    names = tree.names(result.state.params)
    assert "heads_letters_train/classifier/kernel" in names
    assert any(name.startswith("own_segmentation_a_b/") for name in names)
    assert {"letters/train", "a/b", "a/b_auxiliary"} <= result.history[0].keys()
    with pytest.raises(UserError, match="source 'a/b' is called as another one, but for a slash"):
        expert({"cls": [("a/b", 5), ("a_b", 3)]})
