"""Short forms of the campaigns of tools/chaos; the long ones' figures are in BENCHMARKS.md."""

import logging
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools.chaos import damage  # noqa: E402


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
