"""Short forms of the campaigns of tools/chaos; the long ones' figures are in BENCHMARKS.md."""

import logging
import pathlib
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools.chaos import damage, goodput, hosts, kills, stops, storage  # noqa: E402


@pytest.mark.medium
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
def test_what_one_of_two_hosts_meets_alone_ends_for_both(tmp_path):
    counted = hosts.campaign(tmp_path, faults=3, seed=0, overrides=[])
    assert all(counted[kind] == 3 for kind in hosts.KINDS)
    assert counted["went_on"] and not counted["different"] and not counted["lost"]
    assert not counted["slow"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="the faults are in C")
def test_full_and_slow_file_systems_change_no_end(tmp_path):
    counted = storage.campaign(tmp_path, faults=4, seed=0, overrides=[])
    assert counted["met"] == counted["faults"] == 4 and not counted["different"]
    assert counted["slowest_s"] <= storage.LIMIT


@pytest.mark.slow
def test_goodput_counts_kills_and_repeated_steps(tmp_path):
    found = goodput.campaign(tmp_path, kills.CONFIG, every=None, steps=24, checkpoint_every=4)
    assert found["same_end"] and found["kills"] == 1
    assert found["goodput"] > 0 and 0.5 < found["not_repeated"] <= 1
