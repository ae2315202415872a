"""What Grain's worker processes do where ours must not: while these pass,
data/batches/workers.py stays. See its docstring.

When one fails with a newer Grain, measure again: `python -m tools.bench.workers`.
"""

import argparse
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools.bench import workers  # noqa: E402

pytestmark = pytest.mark.slow


def both(act, tmp_path):
    """What a new process of each side says of an act."""
    args = argparse.Namespace(folder=tmp_path, workers=2, seconds=1.0)
    return [workers.run(args, side, act) for side in ("ours", "grain")]


def test_a_trainer_that_is_killed_leaves_grain_s_workers_running(tmp_path):
    ours, grain = both("killed_trainer", tmp_path)
    assert ours == {"workers": 2, "alive after 20 s": 0}
    assert grain == {"workers": 2, "alive after 20 s": 2}


def test_an_error_that_cannot_be_pickled_never_leaves_grain_s_worker(tmp_path):
    ours, grain = both("unpicklable_error", tmp_path)
    assert ours["error"] == "RuntimeError: Held: cannot go on" and ours["seconds"] < 20
    assert grain == {"error": None}


def test_a_signal_to_all_processes_of_a_job_ends_grain_s_workers(tmp_path):
    ours, grain = both("signalled_workers", tmp_path)
    assert ours == {"goes_on": True}
    assert not grain["goes_on"] and "exit code -15" in grain["error"]


def test_both_resume_at_any_step_with_any_number_of_workers(tmp_path):
    for found in both("resume", tmp_path):
        assert set(found.values()) == {True}


def test_the_state_of_grain_s_iterator_is_of_one_number_of_workers(tmp_path):
    ours, grain = both("state", tmp_path)
    assert ours == {"kept": "the step"}
    assert "IndexError" in grain["error"]
