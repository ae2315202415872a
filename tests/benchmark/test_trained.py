"""Networks trained on a row's labels: what is tried and kept, what a kill costs, and what keys tell apart."""

import dataclasses

import jax
import numpy as np
import pytest
import toy_rows
from toy_rows import bench

from intern_jax.adapt import fit
from intern_jax.benchmark import choice, protocol, trained
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.benchmark.trained import Trained
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.weights.model import Model

TINY = {"name": "embedded_tiny"}
BUDGET = {"views": {"classification": 64}, "batch_size": {"classification": 16}, "augment": {}}
SCRATCH = BUDGET | {
    "fractions": [1.0],
    "learning_rates": [1e-2],
    "weight_decays": [0.05],
    "lengths": [1.0],
    "longest": None,
    "networks": ["branch"],
    "generalist": None,
}
TOO_HIGH = 1e38  # the second step's outputs are not finite


def network(seed: int, spec=TINY, name: str = "same name") -> Model:
    return dataclasses.replace(Model.random(spec, seed), name=name)


@pytest.fixture(scope="module")
def random() -> Model:
    return network(0)


def ladder(model: Model, **rungs: Model) -> dict:
    found = {"random": model} | rungs
    return {rung: {"cls": one, "dense": one} for rung, one in found.items()}


def kept(made) -> list:
    return record_lib.read_folder(made.recorder.layout.records)


@pytest.mark.medium
def test_a_long_training_that_was_killed_goes_on_to_the_same_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "CHECKPOINT_STEPS", 2)
    made = {
        "family": "classification",
        "size": toy_rows.SIZE,
        "flip": True,
        "cfg": fit.settings(16, 8, 1e-3),
        "seed": 0,
        "mesh": mesh_lib.make_mesh(devices=jax.devices()[:1]),
    }

    def saved() -> list[int]:
        return [int(path.name) for path in tmp_path.rglob("*") if path.name.isdigit()]

    class Dies(toy_rows.Pictures):
        def __getitem__(self, index):
            if saved():  # batches are read ahead by threads, so their number tells no step
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        fit.train_model(TINY, Dies("train"), workdir=tmp_path, **made)
    assert 0 < max(saved()) < 16  # it does not begin anew
    again = fit.train_model(TINY, toy_rows.Pictures("train"), workdir=tmp_path, **made)
    whole = fit.train_model(TINY, toy_rows.Pictures("train"), **made)
    assert jax.tree.all(jax.tree.map(np.array_equal, again.params, whole.params))


@pytest.mark.medium
def test_trials_are_records_and_the_choice_is_trained_on_all_labels(tmp_path, random, monkeypatch):
    grid = {"learning_rates": [TOO_HIGH, 1e-2], "lengths": [1, 2]}
    made = bench(toy_rows.TOYS, tmp_path, scratch=SCRATCH | grid)
    (found,) = Trained(made).scratch(ladder(random))
    trials = [one for one in kept(made) if one.method == "tune"]
    assert {one.split for one in trials} == {"validation"} and len(trials) == 3
    fits, held = protocol.split_validation(np.arange(40), made.train.keys, made.train.labels)
    digest = protocol.subset_digest(made.train.keys, fits)
    assert {(one.n_train, one.n_test, one.subset_digest) for one in trials} == {(32, 8, digest)}
    digest = protocol.subset_digest(made.train.keys, held)
    assert {one.facts["held_digest"] for one in trials} == {digest}
    # The final network learns from all labels, with the steps of the chosen length.
    assert (found.method, found.split, found.n_train, found.n_test) == ("scratch", "test", 40, 20)
    chosen = found.facts["chosen"]
    assert chosen["learning_rate"] == 1e-2
    assert found.settings["steps"] == 4 * chosen["length"]
    assert found.facts["budget"] in ("limit", "searched")
    # The curve: every setting with its held-out score, none for the one that diverged.
    scores = {tuple(one.settings.values()): one.score for one in trials}
    assert [(one["learning_rate"], one["length"]) for one in found.facts["search"]] == [
        *((TOO_HIGH, 1), (1e-2, 1), (1e-2, 2))
    ]
    first, *others = found.facts["search"]
    assert first["score"] is None and np.isnan(scores[4, 16, TOO_HIGH, 0.05])
    for one in others:
        assert one["score"] == scores[one["steps"], 16, 1e-2, 0.05]

    def no_training(*_arguments, **_settings):
        raise AssertionError("trained again")

    monkeypatch.setattr(fit, "train_model", no_training)
    again = bench(toy_rows.TOYS, tmp_path, scratch=SCRATCH | grid)
    assert Trained(again).scratch(ladder(random)) == [found]


@pytest.mark.medium
def test_nothing_trains_at_such_rates(tmp_path, random):
    made = bench(toy_rows.TOYS, tmp_path, scratch=SCRATCH | {"learning_rates": [TOO_HIGH] * 2})
    with pytest.raises(UserError, match="none trained without diverging; give lower ones"):
        Trained(made).scratch(ladder(random))
    alone = bench(toy_rows.TOYS, tmp_path, scratch=SCRATCH | {"learning_rates": [TOO_HIGH]})
    with pytest.raises(UserError, match="toys: outputs are not finite; lower the learning rate"):
        Trained(alone).scratch(ladder(random))


@pytest.mark.medium
def test_weight_decay_reaches_the_step_and_predictions_are_compiled_once():
    fits = {}
    for decay in (0.0, 5.0):
        fits[decay] = fit.train_model(
            TINY,
            toy_rows.Pictures("train"),
            family="classification",
            size=toy_rows.SIZE,
            flip=False,
            cfg=fit.settings(4, 16, 1e-2, decay),
            seed=0,
            mesh=mesh_lib.make_mesh(devices=jax.devices()[:1]),
        )
    assert fits[0.0].stage is fits[5.0].stage
    sizes = {
        decay: np.linalg.norm(one.params["backbone"]["head_conv"]["kernel"])
        for decay, one in fits.items()
    }
    # Rates are 0.5, 1, 0.75 and 0.25 of the peak: each step takes rate x decay off what decays.
    assert sizes[5.0] < 0.95 * sizes[0.0]


# --- without training -----------------------------------------------------------------------------


class Keys:
    """Collects the keys that records are asked for."""

    def __init__(self):
        self.found = []

    def __call__(self, key, make):
        assert callable(make)
        self.found.append(dict(key))
        return record_lib.made(key | {"score": 1.0})


def keys_of(what: str, rungs: dict, folder, seed: int = 0, row=toy_rows.TOYS, **cfg) -> list[dict]:
    made = bench(row, folder, seed, **cfg)
    made.record = Keys()
    getattr(Trained(made), what)(rungs)
    return made.record.found


def finetune(rung: str) -> dict:
    return BUDGET | {"rung": rung, "fractions": [1.0], "learning_rate": 1e-3}


@pytest.mark.medium
def test_a_fine_tune_of_other_weights_labels_or_rung_is_another_record(tmp_path, random):
    other = network(1)
    assert other.name == random.name

    def key(start: Model, rung: str = "expert", **cfg) -> dict:
        cfg = {"finetune": finetune(rung)} | cfg
        (found,) = keys_of("finetune", ladder(random, expert=start, last=start), tmp_path, **cfg)
        return found

    plain = key(random)
    assert key(random) == plain
    assert key(other) == plain | {"backbone_digest": other.digest}
    assert key(random, rung="last") == plain | {"rung": "last"}
    lists = tmp_path / "lists"
    lists.mkdir()
    source = toy_rows.Pictures("train")
    protocol.write_list(lists / protocol.list_name("toys", 1.0, 0), source, np.arange(11), 1.0, 0)
    digest = protocol.subset_digest(source.keys, np.arange(11))
    shorter = key(random, lists=lists)
    changed = {"n_train": 11, "subset_digest": digest, "data": shorter["data"]}
    assert shorter == plain | changed
    assert shorter["data"]["test"] == plain["data"]["test"]
    assert shorter["data"]["train"] != plain["data"]["train"]
    assert plain["n_train"] == 40 and plain["test_digest"]


@pytest.mark.medium
def test_scratch_of_other_labels_is_another_record(tmp_path, random):
    def key(**cfg) -> dict:
        (found,) = keys_of("scratch", ladder(random), tmp_path, scratch=SCRATCH, **cfg)
        return found

    lists = tmp_path / "lists"
    lists.mkdir()
    source = toy_rows.Pictures("train")
    protocol.write_list(lists / protocol.list_name("toys", 1.0, 0), source, np.arange(11), 1.0, 0)
    assert key(lists=lists)["subset_digest"] != key()["subset_digest"]
    assert key()["settings"] == {
        **{"steps": 4, "batch_size": 16},
        **{"learning_rate": 1e-2, "weight_decay": 0.05},
    }


@pytest.mark.medium
def test_another_augmentation_is_another_record_and_reaches_the_pictures(
    tmp_path, random, monkeypatch
):
    changes = {"scale": [1.0, 1.0], "color": 0.0}
    cfg = SCRATCH | {"augment": {"classification": changes, "depth": {"flip": False}}}
    keys = [keys_of("scratch", ladder(random), tmp_path, scratch=one)[0] for one in (SCRATCH, cfg)]
    assert keys[1] == keys[0] | {"augment": changes}
    seen = []

    def group(settings, *_arguments, **_sources):
        seen.append(settings["transform"])
        raise UserError("that is all")

    monkeypatch.setattr(fit, "build_group", group)
    with pytest.raises(UserError, match="that is all"):
        Trained(bench(toy_rows.TOYS, tmp_path, scratch=cfg)).scratch(ladder(random))
    usual = toy_rows.TOYS.task_family.view(toy_rows.SIZE, train=True, flip=False)
    assert seen == [usual | changes]


@pytest.mark.medium
def test_the_record_follows_the_grid_that_its_facts_tell_of(tmp_path, random):
    keys = [
        keys_of("scratch", ladder(random), tmp_path, scratch=SCRATCH | {"longest": longest})[-1]
        for longest in (None, 2.0)
    ]
    assert keys[0]["settings"] == keys[1]["settings"] and keys[0] != keys[1]


@pytest.mark.medium
def test_each_seed_holds_out_labels_of_its_own_subset_and_all_share_those_of_all(tmp_path, random):
    cfg = SCRATCH | {"fractions": [0.5, 1.0], "learning_rates": [1e-3, 1e-2]}
    trials = {}
    for seed in (0, 1):
        keys = keys_of("scratch", ladder(random), tmp_path, seed, scratch=cfg)
        trials[seed] = [key for key in keys if key["method"] == "tune"]
        ours = [key for key in keys if key["method"] == "scratch"]
        assert [(key["seed"], key["n_train"]) for key in ours] == [(seed, 20), (seed, 40)]
    for seed, found in trials.items():
        assert [(k["fraction"], k["seed"], k["n_train"]) for k in found] == [
            *[(0.5, seed, 16)] * 2,
            *[(1.0, 0, 32)] * 2,
        ]
    assert trials[0][2:] == trials[1][2:]
    assert trials[0][0]["subset_digest"] != trials[1][0]["subset_digest"]


@pytest.mark.parametrize(
    ("row", "fraction", "open_", "budget"),
    [
        (toy_rows.TOYS, 0.1, True, "few labels"),  # 4 of 2 classes
        (toy_rows.TOYS, 0.3, True, "one length"),  # 12
        (toy_rows.TOYS, 1.0, False, "one setting"),
        (toy_rows.WALLS, 0.1, True, "few labels"),  # 4 depth maps
        (toy_rows.WALLS, 0.2, True, "one length"),  # 8
    ],
)
def test_too_few_labels_take_the_first_setting(tmp_path, caplog, row, fraction, open_, budget):
    caplog.set_level("INFO")
    rates = [3e-3, 1e-2] if open_ else [3e-3]
    cfg = SCRATCH | {"fractions": [fraction], "learning_rates": rates}
    cfg |= {"views": {row.family: 64}, "batch_size": {row.family: 16}}
    made = bench(row, tmp_path, scratch=cfg)
    made.record = Keys()
    found = Trained(made)._chosen("scratch", TINY, fraction, made.subset(fraction, 0))
    assert found.budget == budget and found.setting.learning_rate == 3e-3
    assert len(made.record.found) == (2 if budget == "one length" else 0)
    tried = [line for line in caplog.messages if line.endswith("held out")]
    assert len(tried) == len(made.record.found)
    assert caplog.messages[-1].endswith(f" views: {choice.BUDGETS[budget]}")


@pytest.mark.medium
def test_the_generalist_is_given_or_that_of_the_highest_rung(tmp_path, random):
    both = {"name": "generalist", "branch": TINY}
    given = both | {"sets": []}
    cfg = SCRATCH | {"networks": ["branch", "generalist"]}
    rungs = ladder(random, expert=random, generalist=dataclasses.replace(random, spec=both))
    keys = keys_of("scratch", rungs, tmp_path, scratch=cfg)
    assert [(k["method"], k["backbone"]) for k in keys] == [
        ("scratch", TINY),
        ("scratch-generalist", both),
    ]
    keys = keys_of("scratch", ladder(random), tmp_path, scratch=cfg | {"generalist": given})
    assert keys[1]["backbone"] == given
    assert set(trained.METHODS) == set(cfg["networks"])
