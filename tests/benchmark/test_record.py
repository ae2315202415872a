"""Records: written, checked and read, those of version 1 too, and those of a family and metric from outside."""

import json
import math
import os
import pathlib
import sys
import types

import numpy as np
import pytest

from intern_jax import families
from intern_jax.benchmark.rows.row import Row
from intern_jax.benchmark.runner import Recorder
from intern_jax.benchmark.scores import cells, render, table
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json
from intern_jax.core.layout import Layout
from intern_jax.families import table as families_table
from intern_jax.metrics.table import Metric
from intern_jax.report import html

# A record as version 1 wrote it.
VERSION_1 = {
    "task": "rooms_depth",
    "family": "depth",
    "metric": "rmse",
    "higher_is_better": False,
    "size": 64,
    "method": "amateur",
    "fraction": 0.1,
    "seed": 0,
    "draw": 1,
    "data": {"train": "cf58492f6685b3e8", "test": "bff1f1ea98860e74"},
    "formats": {"scores": 1, "transform": 1, "networks": 1},
    "head": "panoptic",
    "backbone": "amateur-ffaa5d3fc898",
    "backbone_digest": "12",
    "settings": {"steps": 100},
    "test_digest": "34",
    "n_train": 60,
    "subset_digest": "56",
    "score": 0.85,
    "standard_error": 0.013,
    "scores": {"rmse": 0.85, "delta1": 0.6},
    "n_test": 500,
    "l2": 0.1,
    "validation_score": 0.5,
    "config_digest": "78",
    "versions": {"intern_jax": "0.1.0"},
    "seconds": 22.5,
}
NEW = {name: VERSION_1[name] for name in ("task", "family", "metric", "method", "fraction")}
NEW |= {"seed": 0, "draw": 1, "score": 0.85}


def loud(text):
    raise AssertionError(f"{text} is no strict JSON")


def write(path: pathlib.Path, content) -> pathlib.Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# --- writing and reading --------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_and_holds_its_metrics_facts(tmp_path):
    made = record_lib.made(NEW | {"settings": {"cfg": {"steps": 3}}, "chosen": {"l2": 0.1}})
    record_lib.write(tmp_path / "a.json", made)
    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=loud)
    assert record_lib.read(tmp_path / "a.json").plain() == made.plain() == content
    assert content["record_version"] == record_lib.VERSION == 2
    facts = ("metric_title", "unit", "higher_is_better", "digits", "family_short", "split")
    assert [content[name] for name in facts] == ["RMSE", "m", False, 3, "DEP", "test"]
    assert content["facts"] == {"chosen": {"l2": 0.1}}
    assert made.measure.heading == "RMSE m ↓"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null_and_read_as_nan(tmp_path, bad):
    scores, search = {"rmse": bad, "delta1": 0.5}, [{"rate": 0.1, "score": bad}]
    made = record_lib.made(NEW | {"score": bad, "scores": scores, "search": search})
    record_lib.write(tmp_path / "a.json", made)
    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=loud)
    assert content["score"] is None and content["scores"] == {"rmse": None, "delta1": 0.5}
    assert content["facts"]["search"] == [{"rate": 0.1, "score": None}]
    back = record_lib.read(tmp_path / "a.json")
    assert math.isnan(back.score) and math.isnan(back.scores["rmse"])
    assert math.isnan(back.standard_error) and back.figure("delta1") == 0.5
    assert back.figure("silog") is None


def test_a_record_of_a_metric_or_family_that_is_not_known_is_not_made():
    with pytest.raises(UserError, match="metric: no metric 'rms'; did you mean rmse"):
        record_lib.made(NEW | {"metric": "rms"})
    with pytest.raises(UserError, match="family: no family 'dept'; did you mean depth"):
        record_lib.made(NEW | {"family": "dept"})


# --- version 1 ------------------------------------------------------------------------------------


def test_version_1_is_read_with_the_facts_of_the_tables(tmp_path):
    found = record_lib.read(write(tmp_path / "a.json", VERSION_1))
    assert (found.score, found.standard_error, found.n_train) == (0.85, 0.013, 60)
    assert (found.measure.heading, found.digits) == ("RMSE m ↓", 3)
    assert (found.family_short, found.split, found.record_version) == ("DEP", "test", 2)
    assert found.facts == {"l2": 0.1, "validation_score": 0.5}
    # Nothing that it held is lost.
    plain = found.plain()
    assert {n: plain["facts"].get(n, plain.get(n)) for n in VERSION_1} == VERSION_1


def test_version_1_may_hold_nan_and_held_out_scores(tmp_path):
    text = json.dumps(VERSION_1 | {"score": math.nan, "standard_error": math.nan})
    assert "NaN" in text
    found = record_lib.read(write(tmp_path / "a.json", text))
    assert math.isnan(found.score) and math.isnan(found.standard_error)
    held = VERSION_1 | {"split": "validation"}
    assert record_lib.read(write(tmp_path / "b.json", held)).split == "validation"
    # Learning rates were tuned on held-out labels, which their records did not say.
    tuned = VERSION_1 | {"method": "tune"}
    assert record_lib.read(write(tmp_path / "c.json", tuned)).split == "validation"


def test_version_1_of_a_metric_and_family_that_nobody_knows_is_shown_by_its_names(tmp_path):
    content = VERSION_1 | {"metric": "psnr", "family": "colour", "higher_is_better": True}
    found = record_lib.read(write(tmp_path / "a.json", content))
    assert (found.measure.heading, found.family_short) == ("psnr ↑", "colour")


def test_the_records_of_a_run_are_read_from_its_results(tmp_path):
    new = record_lib.made(NEW).plain()
    path = write(tmp_path / "results.json", {"records": [VERSION_1, new], "table": "x"})
    assert [one.method for one in record_lib.read_run(path)] == ["amateur", "amateur"]
    write(path, {"records": [new, new | {"score": "high"}]})
    message = r"results\.json: records\[1\]: record\.score: 'high'; write a number, or null"
    with pytest.raises(UserError, match=message + r" \(or run again to write it anew\)"):
        record_lib.read_run(path)
    with pytest.raises(UserError, match=r"results\.json: no list of records; run again"):
        record_lib.read_run(write(path, {"table": "x"}))


def test_a_setting_or_time_that_is_not_finite_does_not_spoil_a_runs_records(tmp_path):
    new = record_lib.made(NEW | {"score": math.nan}).plain()
    stages = [{"name": "amateur", "seconds": math.inf, "limits": (-math.inf, 1.0)}]
    path = tmp_path / "results.json"
    write_json(path, {"config": {"clip": math.nan}, "stages": stages, "records": [new]})
    content = json.loads(path.read_text(), parse_constant=loud)
    assert content["config"] == {"clip": None} and content["stages"][0]["limits"] == [None, 1.0]
    (found,) = record_lib.read_run(path)
    assert math.isnan(found.score)


# --- mistakes -------------------------------------------------------------------------------------

V2 = record_lib.made(NEW).plain()
FAMILYLESS = {name: value for name, value in V2.items() if name != "family"}
AGAIN = r" \(or delete the file and run again\)$"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"task": "cifar10", "sco', r": not JSON .*; delete the file and run again"),
        ("[" * 100_000, r": not JSON .*; delete the file and run again"),
        ("[1]", r": no record of a score; delete the file and run again"),
        (V2 | {"score": "90"}, r": record\.score: '90'; write a number, or null" + AGAIN),
        (V2 | {"score": True}, r": record\.score: True; write a number, or null" + AGAIN),
        (V2 | {"score": 10**400}, r": record\.score: .*; write a number, or null" + AGAIN),
        (V2 | {"fraction": 10}, r": record\.fraction: 10; write a number in \(0, 1\]" + AGAIN),
        (V2 | {"fraction": None}, r": record\.fraction: None; write a number in \(0, 1\]" + AGAIN),
        (V2 | {"draw": "0"}, r": record\.draw: '0'; write a whole number" + AGAIN),
        (V2 | {"seed": True}, r": record\.seed: True; write a whole number" + AGAIN),
        (V2 | {"task": 7}, r": record\.task: 7; write the name of a row" + AGAIN),
        (V2 | {"scores": [1]}, r": record\.scores: \[1\]; write a group of numbers" + AGAIN),
        (V2 | {"scores": {"a": "b"}}, r": record\.scores\.a: 'b'; write a number" + AGAIN),
        (V2 | {"digits": -1}, r": record\.digits: -1; write a whole number of 0 to 15" + AGAIN),
        (V2 | {"scroe": 1}, r": record\.scroe: no such field; did you mean score.*" + AGAIN),
        (FAMILYLESS, r": record\.family: missing; write the name of .*" + AGAIN),
        ({"task": "a", "method": "b"}, r": no record of a score; delete the file and run again"),
        (V2 | {"record_version": 3}, r": record_version 3, known: 1 to 2; update intern_jax, or"),
        (V2 | {"record_version": "2"}, r": record_version '2', known: 1 to 2"),
        (
            json.dumps(V2 | {"score": math.nan}),
            r": NaN or Infinity, which strict JSON has not; del",
        ),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, content, message):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(UserError, match=r"^\S*a\.json" + message) as caught:
        record_lib.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json: cannot be read .*; delete the file"):
        record_lib.read(tmp_path / "nothing.json")
    with pytest.raises(UserError, match="nowhere: no such folder; a benchmark run makes it"):
        record_lib.read_folder(tmp_path / "nowhere")


def test_records_are_read_from_below_a_folder_the_oldest_first(tmp_path):
    (tmp_path / "deep").mkdir()
    for age, name in ((30, "deep/b.json"), (10, "a.json"), (20, "c.json")):
        path = write(tmp_path / name, V2 | {"score": float(age)})
        os.utime(path, (1000 - age, 1000 - age))
    write(tmp_path / "config.json", {"config": {}})
    write(tmp_path / "list.json", [1])
    write(tmp_path / "plan.json", {"task": "label the rest", "score": "high"})
    write(tmp_path / "half.json.tmp", "{")
    assert [one.score for one in record_lib.read_folder(tmp_path)] == [30.0, 20.0, 10.0]


# --- the recorder ---------------------------------------------------------------------------------


def test_a_record_is_made_once_and_a_record_of_version_1_is_not_made_anew(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"score": 0.5, "standard_error": 0.01, "scores": {"rmse": 0.5}, "l2": 0.1}

    key = {name: value for name, value in NEW.items() if name != "score"} | {"head": "a b/c"}
    layout = Layout.of(tmp_path)
    layout.records.mkdir()
    recorder = Recorder(layout, {"intern_jax": "0.1"})
    first, again = recorder(key, make), recorder(key, make)
    assert len(calls) == 1 and first.plain() == again.plain()
    assert first.facts == {"l2": 0.1} and first.versions == {"intern_jax": "0.1"}
    (path,) = layout.records.glob("*.json")
    assert path.name == f"rooms_depth-amateur-a_b_c-0.1-0-1-{first.config_digest[:12]}.json"
    old = {**key, "higher_is_better": False, "score": 0.7, "versions": {"intern_jax": "0.0"}}
    write(path, old)
    assert recorder(key, make).score == 0.7 and len(calls) == 1
    write(path, "{")
    with pytest.raises(UserError, match="not JSON"):
        recorder(key, make)


# --- a family and a metric from outside -----------------------------------------------------------


def outside_record(**fields) -> dict:
    """A record in a file that nothing in this process knows the metric or family of."""
    return V2 | {
        "task": "paintings",
        "family": "colour",
        "family_short": "COL",
        "metric": "psnr",
        "metric_title": "PSNR",
        "unit": "dB",
        "higher_is_better": True,
        "digits": 2,
        "n_test": 40,
        **fields,
    }


def test_a_record_of_an_unknown_metric_and_family_is_shown_whole(tmp_path):
    (tmp_path / "records").mkdir()
    for draw, score in enumerate((20.0, 22.0, 21.0)):
        content = outside_record(draw=draw, score=score, standard_error=0.25)
        write(tmp_path / f"records/{draw}.json", content)
    records = record_lib.read_folder(tmp_path / "records")
    sheet = table.sheet(records)
    (row,) = sheet.rows
    # The mean's interval: 4.303 * 1 / sqrt(3).
    assert row == ["paintings", "PSNR dB ↑", "40", "-", "21.00 ± 2.48 (0.25)"]
    assert sheet.head[-1] == "amateur 10%, 1 x 3"
    assert "paintings,,colour,psnr,dB,True" in render.csv(cells.of(records))
    results = {"records": [one.plain() for one in records], "scores": sheet.plain()}
    results["efficiency"] = table.panels(cells.of(records))
    write(tmp_path / "results.json", results)
    page = html.write_report(tmp_path).read_text().replace("&nbsp;", " ")
    assert "21.00 ± 2.48 (0.25)" in page and page.count("data:image/svg+xml;base64,") == 1


def test_a_row_names_a_metric_and_a_config_a_family_by_dotted_names(tmp_path, monkeypatch):
    def statistics(prediction, rows, _num_classes):
        return np.stack([np.ones(len(prediction)), (prediction - rows["tint"]) ** 2], axis=1)

    def figures(sums):
        return {"psnr": -10 * np.log10(sums[..., 1] / sums[..., 0])}

    module = types.ModuleType("outside")
    module.PSNR = Metric("psnr", "PSNR", "dB", digits=2, statistics=statistics, figures=figures)
    module.COLOUR = families.Family(name="colour", short="COL", answer="number")
    monkeypatch.setitem(sys.modules, "outside", module)
    monkeypatch.setattr(families_table, "_families", dict(families_table._families))
    monkeypatch.setattr(families_table, "_outside", {})
    families.add("outside:COLOUR")
    row = Row("paintings", "colour", {"fn": "outside:load"}, "outside:PSNR", 32)
    assert row.higher_is_better
    per_image = statistics(np.array([0.1, 0.2]), {"tint": np.array([0.2, 0.1])}, 0)
    key = {"task": row.name, "family": row.family, "metric": row.metric, "method": "ours"}
    key |= {"fraction": 0.1, "seed": 0, "draw": 0}
    layout = Layout.of(tmp_path)
    layout.records.mkdir()
    made = Recorder(layout, {})(key, lambda: module.PSNR.summary(per_image))
    assert (made.metric, made.family_short, made.score) == ("psnr", "COL", pytest.approx(20.0))
    assert table.sheet([made]).rows == [["paintings", "PSNR dB ↑", "2", "-", "20.00 (0.00)"]]
    with pytest.raises(UserError, match="outside:COLOUR is a Family; name a Metric"):
        _ = Row("a", "colour", {"fn": "x:y"}, "outside:COLOUR", 32).higher_is_better
