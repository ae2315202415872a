"""A stage's key changes with what changes its arrays, and with nothing else."""

import copy
import json
import logging
import os

import numpy as np
import pytest
import toy_stages
from PIL import Image
from toy_stages import entry

from intern_jax import pipeline, version
from intern_jax.core.config import UserError, load_config, plain
from intern_jax.core.layout import Layout
from intern_jax.data.batches import mixture
from intern_jax.data.make import dense, pairs
from intern_jax.data.make import text as tokenizer
from intern_jax.losses.segmentation import pixel_cross_entropy
from intern_jax.models import zoo
from intern_jax.pipeline import chain, keys
from intern_jax.processes import hosts
from intern_jax.stages.expert import Expert
from intern_jax.stages.generalist import Generalist
from intern_jax.train import settings as train_settings

QUICKSTART = plain(load_config("quickstart"))
EXPERTS = {"expert_cls", "expert_dense", "expert_det"}
TAUGHT = {"generalist", "squeeze"}  # the generalist, and the student that it teaches
JOINED = {*TAUGHT, "merged"}  # all that starts from an expert
ALL = {"amateur", *EXPERTS, *JOINED}
FOLDER = "intern_jax.data.sources.folder:ImageFolder"


def keys_of(config, seed=0):
    """The key of each stage of a config, without training."""
    settings = pipeline.check(config)
    links = chain.links(settings, keys.fingerprints(settings), seed, Layout.of("run"))
    return {name: link.product.key for name, link in links.items()}


def changed(change, config=QUICKSTART):
    """The stages whose keys are others after a change of the config."""
    before, given = keys_of(config), copy.deepcopy(config)
    change(given)
    after = keys_of(given)
    return {name for name in before if before[name] != after.get(name)}


def train(c, stage="expert_cls"):
    return c[stage]["train"]


@pytest.mark.medium
@pytest.mark.parametrize(
    "change",
    [
        lambda c: train(c).update(log_every=7),
        lambda c: train(c).update(keep=5, keep_every=50),
        lambda c: train(c).update(checkpoint_every=None),
        lambda c: train(c).update(profile=(3, 5)),
        lambda c: train(c).update(max_rollbacks=0),
        lambda c: train(c)["optim"].update(b1=0.9, l2=0.0),
        lambda c: c["amateur"]["stage"].update(embed_dim=128),
        lambda c: c["amateur"]["data"]["pairs"]["transform"].update(geometry=False),
        lambda c: c["amateur"]["data"]["pairs"].update(shuffle="full"),
        lambda c: c["amateur"]["data"]["pairs"].update(temperature=None),
        lambda c: c["amateur"]["data"]["pairs"]["sources"][0].update(begin=0, end=None),
        lambda c: c.update(workers=2, seeds=(0, 1)),
        lambda c: c["amateur"].update(
            evaluators={"e": {"fn": "toy_stages:loss_of", "every": 3, "y": 1}}
        ),
        lambda c: c["mesh"].update(data=1),
        lambda c: c["expert_cls"]["data"]["cls"]["transform"].update(hue=0),
        lambda c: c["amateur"].update(graft={}),
        lambda c: c["expert_dense"]["stage"].update(losses=None),
        lambda c: c["benchmark"].update(draws=3),
        lambda c: c.update(
            stages=("amateur", *sorted(EXPERTS, reverse=True), "generalist", "merged", "squeeze")
        ),
        lambda c: c["backbone"].update(layer_scale=0.1),
        lambda c: c["backbone"].update(wide_last=None),
    ],
)
def test_what_changes_no_array_recomputes_nothing(change):
    assert changed(change) == set()


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (lambda c: train(c)["optim"].update(learning_rate=1e-3), {"expert_cls", *JOINED}),
        (lambda c: train(c, "generalist").update(ema_decay=0.5), TAUGHT),
        (lambda c: train(c, "generalist").update(spike={}), TAUGHT),
        (lambda c: c["amateur"]["stage"].update(embed_dim=64), ALL),
        (
            lambda c: c["expert_dense"]["data"]["dense"].update(batch_size=16),
            {"expert_dense", *JOINED},
        ),
        (lambda c: c["generalist"]["data"]["cls"]["sources"][0].update(weight=0.5), TAUGHT),
        (lambda c: c["generalist"]["data"]["cls"].update(shuffle={"block": 64}), TAUGHT),
        (lambda c: c["generalist"]["data"]["cls"].update(temperature=2.0), TAUGHT),
        (
            lambda c: c["expert_cls"]["data"]["cls"]["sources"][0].update(end=10**6),
            {"expert_cls", *JOINED},
        ),
        (
            lambda c: c["generalist"]["data"]["cls"]["sources"][0].update(balance={"by": "class"}),
            TAUGHT,
        ),
        (lambda c: c["expert_cls"].update(start=None), {"expert_cls", *JOINED}),
        (lambda c: c["backbone"].update(layer_scale=0.2), ALL),
        (lambda c: c["backbone"].update(wide_last=256), ALL),
        (lambda c: c.update(compute_dtype="bfloat16"), ALL),
    ],
)
def test_what_changes_arrays_recomputes_the_stage_and_what_follows(change, stages):
    assert changed(change) == stages


def test_another_seed_is_another_chain():
    first, second = keys_of(QUICKSTART), keys_of(QUICKSTART, seed=1)
    assert all(first[name] != second[name] for name in first)


def test_the_name_of_what_a_role_is_bound_to_plays_no_part():
    given = copy.deepcopy(QUICKSTART)
    given["web"] = given.pop("amateur")
    given |= {"stages": ["web", "expert_cls"], "benchmark": None}
    given["expert_cls"]["start"] = {"backbone": "web"}
    before, after = keys_of(QUICKSTART), keys_of(given)
    assert after == {"web": before["amateur"], "expert_cls": before["expert_cls"]}


@pytest.mark.parametrize(
    ("where", "field", "value", "stages"),
    [
        (version, "__version__", "99.0.1", set()),
        (Generalist, "format", 2, TAUGHT),
        (Expert, "format", 2, {*EXPERTS, *JOINED}),
        (dense.dense, "format", 99, {"expert_dense", *JOINED}),
        (pairs.PairViews, "format", 99, ALL),
        (train_settings, "FORMAT", 99, ALL),
        (zoo, "FORMAT", 99, ALL),
        (pixel_cross_entropy, "format", 99, {*EXPERTS, *JOINED}),
    ],
)
def test_raised_formats_recompute_exactly_what_depends_on_them(
    monkeypatch, where, field, value, stages
):
    before = keys_of(QUICKSTART)
    monkeypatch.setattr(where, field, value, raising=False)
    after = keys_of(QUICKSTART)
    assert {name for name in before if before[name] != after[name]} == stages


def test_a_raised_format_of_a_loss_that_a_stage_names_recomputes_it(monkeypatch):
    given = copy.deepcopy(QUICKSTART)
    named = {"fn": "intern_jax.losses.segmentation:pixel_cross_entropy"}
    given["expert_dense"]["stage"]["losses"] = {"segmentation": named}
    # The same loss as by default, written out with its own defaults.
    named |= {"ignore": 255}
    assert keys_of(given) != keys_of(QUICKSTART)
    before = keys_of(given)
    monkeypatch.setattr(pixel_cross_entropy, "format", 99, raising=False)
    after = keys_of(given)
    assert {n for n in before if before[n] != after[n]} == {*EXPERTS, *JOINED}


def test_a_file_that_a_transform_names_is_known_by_its_content(tmp_path):
    given, path = copy.deepcopy(QUICKSTART), tmp_path / "words.json"
    given["amateur"]["data"]["pairs"]["transform"]["tokenizer"] = str(path)
    made = []
    words = tokenizer.EMBEDDED.read_text("utf-8")
    for content in (words, words + "\n", words):
        path.write_text(content, "utf-8")
        made.append(keys_of(given))
    assert made[0] == made[2] and all(made[0][name] != made[1][name] for name in ALL)


def test_a_file_of_factors_is_known_by_its_content(tmp_path):
    given, path = copy.deepcopy(QUICKSTART), tmp_path / "factors.npy"
    source = given["expert_cls"]["data"]["cls"]["sources"][0]
    source["balance"] = {"index": str(path)}
    made = []
    for factor in (1.0, 2.0, 1.0):
        np.save(path, np.full(3, factor))
        made.append(keys_of(given))
    assert made[0] == made[2]
    assert {n for n in ALL if made[0][n] != made[1][n]} == {"expert_cls", *JOINED}


def test_a_raised_format_of_mixtures_recomputes_stages_with_several_sources(monkeypatch):
    given = copy.deepcopy(QUICKSTART)
    for name in ("amateur", "expert_cls"):
        for group in given[name]["data"].values():
            group["sources"] = group["sources"][:1]
    before = keys_of(given)
    monkeypatch.setattr(mixture, "FORMAT", 99)
    after = keys_of(given)
    assert {n for n in before if before[n] != after[n]} == {"expert_dense", *JOINED}


def test_a_changed_default_or_table_in_the_code_recomputes(monkeypatch):
    before = keys_of(QUICKSTART)
    with monkeypatch.context() as patch:
        defaults = tuple(96 if d == 64 else d for d in Expert.__init__.__defaults__)
        patch.setattr(Expert.__init__, "__defaults__", defaults)
        after = keys_of(QUICKSTART)
        assert {n for n in before if before[n] != after[n]} >= EXPERTS
    with monkeypatch.context() as patch:
        patch.setitem(zoo.METANETS["embedded"], "layer_scale", 0.3)
        after = keys_of(QUICKSTART)
        assert all(before[name] != after[name] for name in before)
    assert keys_of(QUICKSTART) == before


# --- data on disk ---------------------------------------------------------------------------------


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    """Two folders of pictures, one a stage."""
    for name, offset in (("first", 0), ("second", 100)):
        for label in ("cat", "dog"):
            for i in range(4):
                write(tmp_path / name / label / f"{i}.png", offset + 10 * i)
    return tmp_path


def chain_of(folders):
    """Stages on the first folder, on the second, and one that starts from the second's."""
    made = toy_stages.config(
        one=entry("First"),
        two=entry("First"),
        join=entry("Join", start={"left": "two", "right": None}),
    )
    for name, folder in (("one", "first"), ("two", "second"), ("join", "first")):
        source = {"fn": FOLDER, "root": str(folders / folder)}
        made[name]["data"]["points"]["sources"] = [source]
    return made


def said(caplog, config, workdir):
    caplog.clear()
    with caplog.at_level(logging.INFO, "intern_jax"):
        pipeline.run(config, workdir)
    lines = [r.getMessage() for r in caplog.records if r.name == "intern_jax.pipeline"]
    return {line.split()[0]: line for line in lines if "(seed 0)" in line}


def test_a_file_changed_under_its_name_recomputes_what_depends_on_it(folders, tmp_path, caplog):
    config, workdir = chain_of(folders), tmp_path / "run"
    assert all(line.endswith(": new") for line in said(caplog, config, workdir).values())
    for stage in ("one", "two", "join"):
        config[stage]["train"] |= {"log_every": 1, "keep": 7}
    config["workers"] = 0
    assert all(line.endswith(": reused") for line in said(caplog, config, workdir).values())
    path = folders / "second" / "dog" / "2.png"
    before = path.stat()
    write(path, 77)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    again = said(caplog, config, workdir)
    assert again["one"].endswith(": reused")
    assert "recomputed, because sources.points" in again["two"]
    assert "recomputed, because start.left" in again["join"]
    assert "sources" not in again["join"]


def test_missing_data_of_a_later_stage_is_told_before_the_first_is_trained(folders, tmp_path):
    config = chain_of(folders)
    config["join"]["data"]["points"]["sources"][0]["root"] = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"config\.join\.data\.points\.sources\[0\]: .*nowhere"):
        pipeline.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fingerprints_are_those_of_process_0(monkeypatch):
    """Another process takes over what process 0 found, its refusal included, and opens nothing."""
    settings = pipeline.check(QUICKSTART)
    theirs = {"made": {"amateur": {"pairs": ["0"]}}}
    monkeypatch.setattr(hosts, "is_main", lambda: False)
    monkeypatch.setattr(keys, "_fingerprints", lambda _: pytest.fail("opened"))
    monkeypatch.setattr(hosts, "broadcast_json", lambda *_: theirs)
    assert keys.fingerprints(settings) == theirs["made"]
    monkeypatch.setattr(hosts, "broadcast_json", lambda *_: {"refused": "x: gone"})
    with pytest.raises(UserError, match="x: gone"):
        keys.fingerprints(settings)


def test_the_key_file_says_what_the_key_is_of(folders, tmp_path):
    config = chain_of(folders)
    pipeline.run(config, tmp_path / "run")
    for path in (tmp_path / "run").glob("seed0/*/key.json"):
        content = json.loads(path.read_text())
        assert path.parent.name.endswith(keys.key_of(content))
        assert content.keys() == {
            *("settings", "backbone", "seed", "start", "formats", "sources", "files"),
        }
