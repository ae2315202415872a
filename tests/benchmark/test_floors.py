"""The floor of depth by hand, in its record, and on the rooms that ship."""

import numpy as np
import pytest
import toy_rows
from toy_rows import bench

from intern_jax.benchmark import floors
from intern_jax.benchmark.rows import suite
from intern_jax.tasks import task as tasks


def test_the_floor_of_depth_by_hand():
    depth = np.array([[[1.0, 2.0, np.nan]], [[4.0, 8.0, 7.0]]], np.float32)
    valid = np.array([[[True, True, False]], [[True, False, False]]])
    out = tasks.find("depth").floor({"depth": depth, "depth_valid": valid}, 0)
    assert out.shape == (1, 3, 1)
    # Of the first pixel both count, of the second one, of the third none: the mean of the three valid values.
    np.testing.assert_allclose(np.exp(out[0, :, 0]), [2.0, 2.0, 2.0])
    depth[0, 0, 1] = 16.0
    out = tasks.find("depth").floor({"depth": depth, "depth_valid": valid}, 0)
    np.testing.assert_allclose(np.exp(out[0, :, 0]), [2.0, 16.0, 4.0])
    nothing = {"depth": depth, "depth_valid": np.zeros_like(valid)}
    assert tasks.find("depth").floor(nothing, 0) is None
    assert tasks.find("segmentation").floor({"mask": np.zeros((1, 2, 2))}, 2) is None


def test_its_record_is_of_the_labelled_depth_maps_alone(tmp_path):
    made = floors.records(bench(toy_rows.WALLS, tmp_path, fractions=(0.1, 1.0), draws=2))
    assert [(r.method, r.head, r.fraction, r.draw) for r in made] == [
        *(("floor", "", 0.1, draw) for draw in range(2)),
        ("floor", "", 1.0, 0),
    ]
    assert [r.n_train for r in made] == [4, 4, 40]
    # The test's walls, and the geometric mean of all 40.
    truth, guess = np.arange(1.0, 21.0), np.prod(np.arange(1.0, 41.0) ** (1 / 40))
    assert made[-1].score == pytest.approx(np.sqrt(np.mean((truth - guess) ** 2)), rel=1e-6)
    assert made[0].score != made[1].score
    assert len({r.config_digest for r in made}) == 3 and len({r.subset_digest for r in made}) == 3


def test_rows_without_a_floor_and_rows_scored_on_whole_pictures_have_none(tmp_path):
    assert floors.records(bench(toy_rows.TOYS, tmp_path)) == []
    whole = {"depth": {"depth": {"cfg": {}}}}
    assert floors.records(bench(toy_rows.WALLS, tmp_path, heads=whole)) == []
    assert floors.records(bench(suite.find("voc07_12"), tmp_path, heads={})) == []


def test_the_floor_of_the_rooms_that_ship(tmp_path):
    (made,) = floors.records(bench(suite.find("rooms_depth"), tmp_path))
    assert made.score == pytest.approx(0.834, abs=5e-4)
