"""The bench of parts beside a library's: both solvers come to one minimum, and its table is in the form."""

import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools.bench import parts  # noqa: E402
from tools.scoreboard import read  # noqa: E402

pytestmark = pytest.mark.medium

GIVEN = {"command": "python -m x", "machine": "one core", "date": "2026-11-28", "commit": None}


@pytest.fixture(scope="module")
def solvers():
    return {n: parts.solve(s, 1) for n, s in (("ours", parts.by_probe), ("optax", parts.by_optax))}


def test_the_probe_s_solver_comes_to_optax_s_minimum(solvers):
    start = parts.objective(*parts.problem(), np.zeros((parts.FEATURES, parts.CLASSES)))
    assert solvers["optax"][2] < float(start) / 5
    np.testing.assert_allclose(solvers["ours"][2], solvers["optax"][2], rtol=1e-4)


def test_its_table_is_in_the_form(solvers, tmp_path):
    many = 5 * parts.PART
    made = parts.table({20: parts.shuffles(20)}, {many: parts.readings(many, 1)}, solvers, GIVEN)
    made.write(tmp_path / "made.json")
    table = read.table(tmp_path / "made.json")
    assert table.markdown() == made.markdown()
    assert [row[1] for row in table.rows][:2] == ["a row of 20", "a row of 20,480, read"]
