"""Merged experts: the sum in weight space, statistics over batches by NumPy, heads that learn alone, a whole chain."""

import functools
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_batches import CLASSES, CONVOLUTIONS, OPTIM, VIT, drawn, fit, labelled, quick_jit, seen

from intern_jax import pipeline
from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.pipeline import products
from intern_jax.stages.expert import Expert
from intern_jax.stages.merged import Merged
from intern_jax.train import beginning, loop
from intern_jax.train.stage import Role
from intern_jax.weights import safetensors

SETS = CONVOLUTIONS | {"sets": ("cls", "dense")}


def merged(**settings) -> Merged:
    given = {"backbone": CONVOLUTIONS, "classes": CLASSES, "dense_width": 8}
    return Merged(**given | {"experts": ("cls", "dense")} | settings)


@functools.cache
def product(role, seed, groups, name="embedded_tiny"):
    """What a stage of those groups leaves, with random arrays."""
    backbone = VIT if name == "vit" else CONVOLUTIONS
    stage = Expert(backbone, {g: CLASSES[g] for g in groups}, dense_width=8)
    params, extra = drawn(stage, labelled(groups=groups), seed)
    arrays = {n: np.asarray(x) for n, x in tree.names({"params": params, **extra}).items()}
    return types.SimpleNamespace(variables=arrays, name=role)


def experts(**more):
    bound = {"cls": product("cls", 1, ("cls",)), "dense": product("dense", 2, ("dense",))}
    return bound | more


def started(stage, bound, batch=None):
    """The arrays that a stage begins with, and the report."""
    batch = labelled() if batch is None else batch
    params, extra = drawn(stage, batch, 9)
    target, source = {"params": params, **extra}, products.taken(bound, stage)
    beginning.check_start(target, source, stage)
    arrays, report = tree.graft(target, source, stage.graft)
    return tree.names(arrays), report


def of_backbone(arrays):
    return {n for n in arrays if n.split("/")[1] == "backbone"}


# --- the sum --------------------------------------------------------------------------------------


def test_a_plain_mean_needs_no_base_and_each_head_starts_from_the_expert_that_has_it():
    stage, bound = merged(), experts()
    assert stage.roles == {"cls": Role(), "dense": Role()}
    found, report = started(stage, bound)
    assert report.missing == []
    cls, dense = bound["cls"].variables, bound["dense"].variables
    names = of_backbone(found)
    assert names == of_backbone(cls) and len(names) > 20
    for name in names:
        wanted = (cls[name].astype(np.float64) + dense[name]) / 2
        np.testing.assert_array_equal(found[name], wanted.astype(np.float32), err_msg=name)
        assert found[name].dtype == np.float32
    heads = found.keys() - names
    assert any("/heads_" in n for n in heads) and any("batch_stats/decoder" in n for n in heads)
    for name in heads:
        own = cls if "/heads_" in name else dense
        np.testing.assert_array_equal(found[name], own[name], err_msg=name)


@pytest.mark.parametrize("scale", [0.4, {"cls": 0.3, "dense": 0.5}, 0.7])
def test_differences_from_a_base_are_added_by_their_scales(scale):
    stage = merged(scale=scale)
    assert tuple(stage.roles) == ("cls", "dense", "base")
    bound = experts(base=product("base", 3, ("cls",)))
    found, _ = started(stage, bound)
    base = bound["base"].variables
    of = scale if isinstance(scale, dict) else dict.fromkeys(("cls", "dense"), scale)
    for name in of_backbone(found):
        theta = base[name].astype(np.float64)
        moves = [of[e] * (bound[e].variables[name] - theta) for e in of]
        wanted = theta + sum(moves)
        if name.startswith("params/") or sum(of.values()) <= 1:
            np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6, err_msg=name)
        else:  # Less than none of the base: a variance stays above 0.
            mean = (bound["cls"].variables[name] + bound["dense"].variables[name]) / 2
            np.testing.assert_allclose(found[name], mean, rtol=1e-5, atol=1e-6, err_msg=name)
    heads = {n for n in found if "/heads_" in n}
    assert heads and all(np.array_equal(found[n], bound["cls"].variables[n]) for n in heads)


def test_every_set_of_batch_norm_starts_from_the_same_sum():
    bound = experts()
    found, report = started(merged(backbone=SETS), bound)
    assert report.missing == []
    plain, _ = started(merged(), bound)
    for name in of_backbone(plain):
        head, _, last = name.rpartition("/")
        names = [f"{head}/{own}/{last}" for own in SETS["sets"]] if name not in found else [name]
        for one in names:
            np.testing.assert_array_equal(found[one], plain[name], err_msg=one)
    assert len(of_backbone(found)) > len(of_backbone(plain))


def test_a_backbone_without_batch_norm_is_summed_too():
    bound = {
        "cls": product("cls", 1, ("cls",), "vit"),
        "other": product("other", 2, ("cls",), "vit"),
    }
    classes = {"cls": CLASSES["cls"]}
    stage = merged(backbone=VIT, experts=["cls", "other"], classes=classes)
    found, report = started(stage, bound, labelled(groups=("cls",)))
    assert report.missing == []
    for name in of_backbone(found):
        wanted = (bound["cls"].variables[name] + bound["other"].variables[name]) / 2
        np.testing.assert_allclose(found[name], wanted, rtol=1e-6, atol=1e-7, err_msg=name)


def test_experts_of_different_backbones_are_refused_by_the_array():
    bound = experts()
    arrays = dict(bound["dense"].variables)
    kernel = "params/backbone/stem_conv/kernel"
    stage = merged()
    stage.name = "soup"
    arrays[kernel] = arrays[kernel][..., :4]
    bound["dense"] = types.SimpleNamespace(variables=arrays)
    with pytest.raises(UserError) as said:
        products.taken(bound, stage)
    assert str(said.value) == (
        f"soup.start.dense: {kernel} is (3, 3, 3, 4), that of 'cls' (3, 3, 3, 8); "
        "bind stages of one backbone"
    )
    arrays.pop(kernel)
    with pytest.raises(UserError, match=rf"^soup\.start\.dense: has no {kernel}, and 'cls' has"):
        products.taken(bound, stage)


# --- statistics -----------------------------------------------------------------------------------


def shown(batch, step):
    """The batch of another step: other pictures."""
    rng = np.random.default_rng(step)
    return {
        group: rows | {"image": rng.integers(0, 256, rows["image"].shape).astype(np.uint8)}
        for group, rows in batch.items()
    }


@pytest.mark.medium
@pytest.mark.parametrize("sets", [False, True])
def test_statistics_of_the_backbone_are_means_over_batches_and_those_of_heads_follow(sets):
    stage = merged(backbone=SETS if sets else CONVOLUTIONS)
    batch = labelled()
    params, extra = drawn(stage, batch)
    batches = [shown(batch, step) for step in range(3)]
    run = quick_jit(
        lambda extra, batch, before: stage.loss(seen(params, extra, batch).replace(batches=before))[
            1
        ][0]
    )
    after = extra
    for step, rows in enumerate(batches):
        after = run(after, rows, jnp.int32(step))
    # The statistics of single batches: the first one of all replaces what was there.
    single = []
    for rows in batches:
        for group in rows:
            alone = {group: rows[group]}
            single.append((group, tree.names(run(extra, alone, jnp.int32(0)))))
    after = tree.names(after)
    for name in of_backbone({f"batch_stats/{n}" for n in tree.names(extra["batch_stats"])}):
        own = name.split("/")[-2]
        mine = [s[name] for group, s in single if not sets or group == own]
        assert len(mine) == (3 if sets else 6)
        wanted = np.mean(np.asarray(mine, np.float64), 0)
        np.testing.assert_allclose(after[name], wanted, rtol=2e-6, atol=1e-6, err_msg=name)
    stem = next(n for n in after if n.startswith("batch_stats/decoder/") and n.endswith("/mean"))
    old, dense = np.asarray(tree.names(extra)[stem]), [s[stem] for g, s in single if g == "dense"]
    moments = [(np.asarray(d) - 0.9 * old) / 0.1 for d in dense]
    wanted = old
    for moment in moments:
        wanted = 0.9 * wanted + 0.1 * moment
    np.testing.assert_allclose(after[stem], wanted, rtol=1e-4, atol=1e-5)


class Steps:
    """A stream of other pictures in every step."""

    segments = ()

    def __init__(self, batch):
        self.batch = batch

    def faults(self):
        return {}

    def batch_at(self, step):
        return shown(self.batch, step)

    def iterate(self, start):
        while True:
            yield self.batch_at(start)
            start += 1


@pytest.mark.medium
def test_micro_batches_count_each_and_only_heads_learn():
    """Three steps of two micro-batches are six batches, by the loop; the sum stays as it is."""
    bound = {"cls": product("cls", 1, ("cls",)), "other": product("other", 2, ("cls",))}
    stage = merged(classes={"cls": CLASSES["cls"]}, experts=["cls", "other"])
    batch = labelled(groups=("cls",))
    source = products.taken(bound, stage)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    trainer = loop.Trainer(stage, {"optim": OPTIM, "log_every": 1, "accumulate": 2}, mesh)
    result = trainer.fit(Steps(batch), source=source, steps=3)
    now = tree.names({"params": result.state.params, **result.state.extra})
    before, _ = started(stage, bound, batch)
    for name in of_backbone(now):
        if name.startswith("params/"):
            np.testing.assert_array_equal(now[name], before[name], err_msg=name)
    heads = [n for n in now if n.startswith("params/heads_")]
    assert heads and not any(np.array_equal(now[n], before[n]) for n in heads)
    # What does not learn has no moments.
    moments = [x for x in jax.tree.leaves(result.state.opt_state) if x.ndim == 2]
    assert {x.shape for x in moments} == {(8, 5), (8, 3)} and len(moments) == 4
    flat = tree.unflatten(before)
    params = flat.pop("params")
    run = quick_jit(lambda batch: stage.loss(seen(params, flat, batch))[1][0])
    halves = [
        {"cls": {field: rows[part::2] for field, rows in shown(batch, step)["cls"].items()}}
        for step in range(3)
        for part in range(2)
    ]
    single = [tree.names(run(half)) for half in halves]
    names = [n for n in single[0] if n.startswith("batch_stats/backbone/")]
    assert len(names) > 8
    for name in names:
        wanted = np.mean([np.asarray(s[name], np.float64) for s in single], 0)
        np.testing.assert_allclose(now[name], wanted, rtol=2e-6, atol=2e-6, err_msg=name)


@pytest.mark.medium
def test_without_a_step_or_held_still_the_statistics_are_the_sum():
    bound = experts()
    for settings, steps in (({}, 0), ({"still": "backbone/"}, 1)):
        stage = merged(**settings)
        before, _ = started(stage, bound)
        result = fit(stage, labelled(), steps, products.taken(bound, stage))
        now = tree.names({"params": result.state.params, **result.state.extra})
        for name in of_backbone(now):
            np.testing.assert_array_equal(now[name], before[name], err_msg=name)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"experts": ["cls"]}, r"stage\.experts: \['cls'\]; name two roles or more"),
        ({"experts": ["cls", "cls"]}, r"stage\.experts: .*each once"),
        ({"experts": "cls"}, r"stage\.experts: 'cls'; name two"),
        ({"experts": ["cls", "base"]}, r"stage\.experts: 'base' cannot name"),
        ({"experts": ["cls", "a/b"]}, r"stage\.experts: 'a/b' cannot name"),
        ({"scale": {"cls": 0.3}}, r"stage\.scale: None for dense; write one number"),
        ({"scale": {"cls": 0.3, "dens": 0.3}}, r"stage\.scale\.dens: did you mean dense\?"),
        ({"scale": True}, r"stage\.scale: True for cls"),
        ({"trainable": "backbone/"}, r"stage\.trainable: a merged stage trains its heads alone"),
        ({"pairs": {"text": {}}}, r"stage\.pairs: a merged stage trains its heads alone"),
        (
            {"backbone": {"name": "generalist", "branch": CONVOLUTIONS}},
            "backbone: 'generalist' keeps its experts apart; name a plain backbone",
        ),
    ],
)
def test_settings_that_cannot_be_are_one_line(settings, said):
    with pytest.raises(UserError, match=said) as caught:
        merged(**settings)
    assert "\n" not in str(caught.value)


# --- a chain --------------------------------------------------------------------------------------

NAMES = {"first": "furniture", "second": "fashion"}


def entry_of(kind, sources, steps, start, **arguments):
    embedded = "intern_jax.data.embedded:load"
    group = {
        "sources": [{"fn": embedded, "name": name, "split": "test"} for name in sources],
        "batch_size": 4,
        "transform": {"fn": "intern_jax.data.make.views:classification", "size": 32},
    }
    train = {"steps": steps, "optim": dict(OPTIM), "checkpoint_every": 1, "keep": 9}
    stage = {"fn": f"intern_jax.stages.{kind}", **arguments}
    return {"stage": stage, "data": {"cls": group}, "start": start, "train": train}


def chain(steps=3, **changes):
    """Two experts and their merge; no amateur."""
    made = {
        name: entry_of("expert:Expert", [source], 1, {"backbone": None})
        for name, source in NAMES.items()
    }
    start = {"one": "first", "two": "second"}
    made["soup"] = entry_of("merged:Merged", NAMES.values(), steps, start, experts=list(start))
    run = {"mesh": {"data": 1}, "backbone": CONVOLUTIONS, "stages": list(made)}
    made["soup"] |= changes
    return run | made


def left(workdir, name):
    (folder,) = workdir.glob(f"seed0/{name}-*")
    return folder, tree.names(safetensors.load(folder / "model.safetensors"))


@pytest.mark.medium
def test_a_chain_ends_merged_and_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    pipeline.run(chain(), tmp_path)
    folder, whole = left(tmp_path, "soup")
    found = [left(tmp_path, name)[1] for name in ("first", "second")]
    for name in of_backbone(whole):
        if name.startswith("params/"):
            wanted = (found[0][name].astype(np.float64) + found[1][name]) / 2
            np.testing.assert_array_equal(whole[name], wanted.astype(np.float32), err_msg=name)
    # As if killed after the first step.
    for name in ("done.json", "model.safetensors"):
        (folder / name).unlink()
    for step in (2, 3):
        shutil.rmtree(folder / "checkpoints" / str(step))
    assert [p.name for p in (folder / "checkpoints").glob("[0-9]*")] == ["1"]
    pipeline.run(chain(), tmp_path)
    _, again = left(tmp_path, "soup")
    assert whole.keys() == again.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_mistakes_of_a_chain_are_found_before_its_first_stage(tmp_path):
    wide = {**CONVOLUTIONS, "channels": (8, 16, 16, 24)}
    for change, said in (
        (
            {"start": {"one": "first", "two": None}},
            r"config\.soup\.start\.two: the stage starts from a sum",
        ),
        ({"start": {"one": "first"}}, r"config\.soup\.start\.two: the stage starts from a sum"),
        ({"backbone": wide}, r"config\.soup: graft merged/.* shape .* is not"),
        (
            {"graft": {"add": [["params/heads_x/kernel", "meged/params/x"]]}},
            r"names the role 'meged'",
        ),
    ):
        with pytest.raises(UserError, match=said):
            pipeline.run(chain(**change), tmp_path)
    made = chain()
    made["second"]["backbone"] = wide
    with pytest.raises(UserError, match=r"config\.soup: soup\.start\.two: .* that of 'one'"):
        pipeline.run(made, tmp_path)
    assert not list(tmp_path.glob("seed0/*"))


def test_its_rules_may_take_the_sum_elsewhere_and_the_scale_is_in_the_key():
    made = chain(graft={"add": [["params/heads_x/(.*)", r"merged/params/\1"]]})
    pipeline.check(made)
    checked = pipeline.check(chain())
    other = chain()
    other["soup"]["stage"]["scale"] = 0.5
    other["soup"]["start"]["base"] = "first"
    keys = [pipeline.settings.matter(c["soup"])["stage"] for c in (checked, pipeline.check(other))]
    assert keys[0].get("scale") != keys[1]["scale"] == 0.5
