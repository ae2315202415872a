"""Short forms of the campaigns of tools/chaos; the long ones' figures are in BENCHMARKS.md."""

import logging
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools.chaos import damage, goodput, kills, stops  # noqa: E402


def test_no_damaged_checkpoint_is_restored_wrong(tmp_path):
    before = logging.getLogger("intern_jax").level
    logging.getLogger("intern_jax").setLevel(logging.ERROR)
    try:
        counted = damage.campaign(tmp_path, trials=24, seed=1)
    finally:
        logging.getLogger("intern_jax").setLevel(before)
    assert counted["wrong"] == 0, counted
    assert counted["fell_back"] + counted["harmless"] == 24
    # Only damage to Orbax's two own marks, which nothing reads, does not matter.
    assert counted["harmless"] <= 4 and len(counted["kinds"]) == 8


@pytest.mark.slow
def test_killed_runs_go_on_as_if_left_alone(tmp_path):
    few = ["--config.amateur.train.steps=24", "--config.amateur.train.checkpoint_every=4"]
    # This seed's first kills fall behind the start and before the end.
    counted = kills.campaign(tmp_path, kills=2, seed=191, overrides=few)
    assert counted["kills"] == 2 and counted["finished_runs"] >= 1
    assert counted["checked"] >= 1 and counted["different"] == 0


@pytest.mark.slow
def test_a_run_that_is_stopped_in_each_phase_ends_as_if_left_alone(tmp_path):
    counted = stops.campaign(tmp_path, stops=len(stops.PHASES), seed=0, overrides=[])
    assert counted["different"] == 0 and counted["slowest_s"] <= stops.LIMIT
    assert all(counted[phase] for phase in stops.PHASES)


@pytest.mark.slow
def test_goodput_counts_kills_and_repeated_steps(tmp_path):
    found = goodput.campaign(tmp_path, kills.CONFIG, every=None, steps=24, checkpoint_every=4)
    assert found["same_end"] and found["kills"] == 1
    assert found["goodput"] > 0 and 0.5 < found["not_repeated"] <= 1
