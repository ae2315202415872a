"""A run whose sources begin at steps resumes bit for bit, also after a roll-back across such a step."""

import sys

import numpy as np
import pytest
from toy import Linear, assert_same, settings

from intern_jax.core import mesh as mesh_lib
from intern_jax.data.batches import segments
from intern_jax.data.batches.stream import Stream
from intern_jax.train.loop import fit


class Points:
    """Pictures of one pixel."""

    family, classes, labels = "classification", (), None

    def __init__(self, name, count=16):
        self.name, self.keys = name, [f"{name}/{i}" for i in range(count)]

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 255, (1, 1, 3), np.uint8)
        return {"image": image, "key": self.keys[index]}


def row(sample, _rng):
    x = sample["image"].reshape(3).astype(np.float32) / 255
    return {"x": x, "y": x.sum(), "late": np.bool_(sample["key"].startswith("late"))}


sys.modules["schedule_rows"] = sys.modules[__name__]
GROUPS = {
    "task": {
        "sources": [
            {"fn": "schedule_rows:Points", "name": "first"},
            {"fn": "schedule_rows:Points", "name": "late", "begin": 20},
        ],
        "batch_size": 8,
        "transform": {"fn": "schedule_rows:row"},
    }
}


class Broken(Stream):
    """Batches of some numbers hold a NaN; the stream breaks at step `until`."""

    def __init__(self, bad=(), until=None):
        super().__init__(GROUPS, segments.scheduled(GROUPS, 3), rows=(0, 1), threads=1)
        self.bad, self.until = set(bad), until

    def batch_at(self, step):
        if step == self.until:
            raise RuntimeError("the stream broke")
        batch = super().batch_at(step)
        if segments.place(self.segments, step).number in self.bad:
            batch["task"]["x"][0, 0] = np.nan
        return batch


@pytest.mark.medium
@pytest.mark.parametrize(
    "bad", [(), range(14, 24), range(12)], ids=["sound", "rolled back", "back to the start"]
)
def test_a_run_across_a_source_s_first_step_resumes_bit_for_bit(bad, tmp_path):
    mesh = mesh_lib.make_mesh(data=1)
    cfg = settings(steps=40, log_every=8, max_bad_steps=8, checkpoint_every=4, keep=99)
    whole = Broken(bad)
    expected = fit(Linear(), whole, cfg, mesh, tmp_path / "whole")
    if bad:
        # Rolled back to before the second source's first step, which stays.
        (*_, undone, late) = whole.segments
        assert undone.first_step < 20 == late.first_step
        assert late.offset - undone.offset == 20 - undone.first_step and undone.offset > bad[0]
    assert [whole.batch_at(t)["task"]["late"].mean() for t in (19, 20, 39)] == [0, 0.5, 0.5]
    for until in (18, 30):
        with pytest.raises(RuntimeError, match="the stream broke"):
            fit(Linear(), Broken(bad, until), cfg, mesh, tmp_path / "cut")
    again = Broken(bad)
    done = fit(Linear(), again, cfg, mesh, tmp_path / "cut")
    assert_same(done.state, expected.state)
    assert again.segments[-1].offset == whole.segments[-1].offset
