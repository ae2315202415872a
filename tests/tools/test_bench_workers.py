"""The bench of worker processes sums up its rounds as it says."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools.bench import workers  # noqa: E402


def one(rate):
    return {"images_per_second": rate, "start": 1.0, "again": 0.5, "memory": 100.0}


def test_medians_middle_half_and_the_ratio_of_pairs():
    rates = {"ours": [10.0, 40.0, 20.0, 30.0, 50.0], "grain": [10.0, 20.0, 20.0, 10.0, 10.0]}
    found = workers.summary({side: list(map(one, values)) for side, values in rates.items()})
    assert found["ours"] == {**one(30.0), "middle_half": [20.0, 40.0]}
    assert found["grain"]["images_per_second"] == 10.0 and found["ratio"] == 2.0
    result = {"workloads": {"jpeg": found}, "once": {}, "workers": 2, "grain": "0.2"}
    given = {"command": "x", "machine": "y", "date": "2026-11-28"}
    text = workers.table(result, given).markdown()
    assert "| jpeg | ours | 30 [20, 40] | 1.00 | 0.50 | 100 | 2.00 |" in text
