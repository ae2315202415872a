"""A family from outside goes through expert, benchmark, fine-tune, prediction and report by its dotted name alone."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import counting
import jax
import ml_collections
import numpy as np
import pytest

import intern_jax
from intern_jax import families, pipeline
from intern_jax.adapt import fit
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.data.batches.stream import Segment, Stream
from intern_jax.data.schema import sample as schema
from intern_jax.families import table
from intern_jax.report import pictures
from intern_jax.stages.expert import Expert
from intern_jax.weights.folder import save_model

STEPS = 40


def get_config() -> ml_collections.ConfigDict:
    """One expert on dots, scored on other dots, frozen, fine-tuned and from scratch."""
    budget = {"views": {"counting": 32 * STEPS}, "batch_size": {"counting": 32}}
    expert = {
        "stage": {"fn": "intern_jax.stages.expert:Expert"},
        "start": {},
        "data": {
            "counting": {
                "sources": ({"fn": "counting:load"},),
                "batch_size": 32,
                "transform": {"fn": "counting:view", "size": 32},
            }
        },
        "train": {"steps": STEPS, "optim": {"learning_rate": 3e-3}, "log_every": 20},
    }
    return ml_collections.ConfigDict(
        {
            "families": ("counting:FAMILY",),
            "backbone": {"name": "embedded_tiny"},
            "stages": ("expert",),
            "expert": expert,
            "benchmark": {
                "rows": ("counting:ROW",),
                "fractions": (1.0,),
                "ladder": {"expert": {"cls": "expert", "dense": "expert"}},
                "heads": {
                    "counting": {"usual": {"steps": 150, "batch_size": 32, "learning_rate": 3e-2}}
                },
                "scratch": {"fractions": (1.0,), "learning_rates": (3e-3,), **budget},
                "finetune": {
                    "rung": "expert",
                    "fractions": (1.0,),
                    "learning_rate": 3e-3,
                    **budget,
                },
            },
        }
    )


@pytest.fixture(scope="module", autouse=True)
def known():
    """The family is known to this process while these tests run, and no longer."""
    kept = dict(table._families), dict(table._outside)
    families.add("counting:FAMILY")
    yield
    for now, before in zip((table._families, table._outside), kept, strict=True):
        now.clear()
        now.update(before)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dots") / "run"
    return pipeline.run(get_config(), folder), folder


@pytest.mark.medium
def test_every_method_scores_dots(results):
    made, _ = results
    records = {record["method"]: record for record in made["records"]}
    assert set(records) == {"random", "expert", "scratch", "finetune"}
    constant = np.abs(np.arange(counting.MOST + 1) - 1.5).mean()  # of the best single answer
    for method in ("expert", "finetune"):
        assert records[method]["score"] < constant
    assert records["expert"]["score"] < records["random"]["score"]
    assert "mean error dots ↓" in made["table"]


@pytest.mark.medium
def test_the_log_has_the_families_loss_and_measure(results):
    made, folder = results
    history = (folder / made["stages"][0]["history"]).read_text().splitlines()
    last = json.loads(history[-1])
    assert {"dots", "dots_within_one"} <= set(last)


@pytest.mark.medium
def test_the_report_draws_numbers(results):
    made, folder = results
    (drawn,) = made["pictures"]
    arrays = pictures.read(folder / drawn["npz"])
    assert pictures.kind(arrays) == "number" and len(pictures.render(arrays)) > 1000
    page = (folder / "report.html").read_text()
    assert "dots" in page and "mean error" in page


@pytest.mark.medium
def test_a_model_of_it_is_adapted_saved_opened_and_asked(results, tmp_path):
    _, folder = results
    backbone = intern_jax.load(folder / "model")
    fitted = fit.train_model(
        backbone.spec,
        counting.load(),
        family="counting",
        size=32,
        flip=True,
        cfg=fit.settings(10, 32, 3e-3),
        seed=0,
        mesh=mesh_lib.make_mesh(devices=jax.devices()[:1]),
        init=backbone,
    )
    save_model(tmp_path / "dots", fitted.model(backbone, ()))
    info = json.loads((tmp_path / "dots" / "model.json").read_text())
    assert "counting:FAMILY" in json.dumps(info["head"])
    assert "a counter of dots" in (tmp_path / "dots" / "card.md").read_text().lower()
    opened = intern_jax.load(tmp_path / "dots", families=["counting:FAMILY"])
    images = np.stack([counting.load("test")[i]["image"] for i in range(5)])
    answers = [answer["count"] for answer in opened.predict(list(images))]
    np.testing.assert_allclose(answers, fitted.predict(images)[:, 0], rtol=1e-5, atol=1e-5)
    # A folder brings no code: whoever opens it names the family.
    code = f"import intern_jax; intern_jax.load({str(tmp_path / 'dots')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "counting" in done.stderr.splitlines()[-1]
    assert "families=" in done.stderr.splitlines()[-1]


def test_the_schema_takes_its_fields():
    sample = counting.load()[0]
    assert schema.check(sample, "here") is sample
    with pytest.raises(UserError, match=r"here/count: -1\.0; give a float of at least 0"):
        schema.check({**sample, "count": -1.0}, "here")


def test_worker_processes_know_it():
    group = dict(get_config().expert.data.counting)
    group = config_lib.plain(ml_collections.ConfigDict(group))
    stream = Stream({"counting": group}, [Segment(seed=0)], workers=1)
    try:
        batch = next(stream.iterate())
        assert batch["counting"]["count"].shape == (32,)
    finally:
        stream.close()


def test_names_that_are_taken_or_no_family_are_refused(monkeypatch):
    families.add("counting:FAMILY")  # once more changes nothing
    with pytest.raises(UserError, match=r"counting:MAE is a Metric; name an intern_jax\.families"):
        families.add("counting:MAE")
    other = families.Family(name="depth", short="X", answer="map")
    monkeypatch.setattr(counting, "OTHER", other, raising=False)
    with pytest.raises(UserError, match="counting:OTHER is called 'depth', as another family is"):
        families.add("counting:OTHER")
    field = families.Family(
        name="other", short="X", answer="label", fields={"label": counting.check_count}
    )
    monkeypatch.setattr(counting, "OTHER", field, raising=False)
    with pytest.raises(UserError, match="a field 'label', as classification has with another"):
        families.add("counting:OTHER")
    with pytest.raises(UserError, match="no family 'countin'; did you mean counting"):
        families.find("countin")


def test_records_of_families_load_no_network():
    code = "import sys, intern_jax.families; assert 'jax' not in sys.modules"
    assert not subprocess.run([sys.executable, "-c", code]).returncode
    code = "import sys, intern_jax.families as f; f.add('counting:FAMILY'); assert 'flax' not in sys.modules"
    folder = str(pathlib.Path(__file__).parent)
    added = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": folder})
    assert not added.returncode


def test_other_stages_do_not_depend_on_it():
    """A family that is known, and not used, changes no stage's key."""
    stage = Expert({"name": "embedded_tiny"}, {"cls": [("toys", 3)]})
    assert "counting_task:error" not in stage.functions
    used = Expert({"name": "embedded_tiny"}, {"counting": [("dots", 0)]})
    assert "counting_task:error" in used.functions


@pytest.mark.parametrize("name", ["dot_count", "cls", "dense", "two words"])
def test_names_that_no_group_could_have_are_refused(name):
    with pytest.raises(ValueError, match="letters and digits only"):
        families.Family(name=name, short="X", answer="label")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": ("counting:NOPE",)}, r"config\.benchmark\.rows.*counting has no 'NOPE'"),
        ({"heads": {"counting": {"lbfgs": {"l2": (1.0,)}}}}, "no head 'lbfgs' for counting"),
        ({"heads": {"fashion": {"lbfgs": {"l2": (1.0,)}}}}, "none for row dots; add counting"),
        ({"rows": ("counting:WRONG",)}, r"wrong\.metric: 'top1' is none of counting's"),
        ({"rows": ("voc07_12",)}, "none for row voc07_12; add detection or voc07_12"),
    ],
)
def test_mistakes_in_rows_show_before_training(change, said, monkeypatch):
    wrong = dataclasses.replace(counting.ROW, name="wrong", metric="top1")
    monkeypatch.setattr(counting, "WRONG", wrong, raising=False)
    config = get_config()
    for name, value in change.items():
        del config.benchmark[name]
        config.benchmark[name] = value
    with pytest.raises(UserError, match=said):
        pipeline.check(config)


def test_a_row_has_heads_under_its_dotted_name():
    config = get_config()
    settings = dict(config.benchmark.heads.counting)
    del config.benchmark["heads"]
    config.benchmark.heads = ml_collections.ConfigDict()
    config.benchmark.heads["counting:ROW"] = settings
    assert list(pipeline.check(config)["benchmark"]["heads"]) == ["dots"]
