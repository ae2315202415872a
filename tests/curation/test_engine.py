"""The engine: parts are whole or absent, a killed run goes on, and workers change nothing."""

import errno
import functools
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.curation.running import engine

ENTRY = np.dtype([("key", "u8"), ("row", "u4")])


def square(number: int, folder: pathlib.Path, slow: float = 0.0) -> dict[str, int]:
    time.sleep(slow)
    (folder / "text.txt").write_text(f"{number**2}\n")
    return {"read": 1, "records": 1, "odd": number % 2}


def entries(number: int) -> np.ndarray:
    rows = np.arange(number * 100, (number + 1) * 100)
    out = np.zeros(100, ENTRY)
    # Keys above 2**63, as half of all hashes are.
    out["key"] = (rows % 7).astype(np.uint64) + np.uint64(2**63 + 5)
    out["row"] = rows[::-1]
    return out


def tell(_bucket: int, rows: np.ndarray, folder: pathlib.Path) -> dict[str, int]:
    np.save(folder / "rows.npy", rows)
    return {"read": len(rows)}


def fill(number: int, folder: pathlib.Path) -> dict[str, int]:
    if number == 3:
        raise OSError(errno.ENOSPC, "No space left on device")
    return square(number, folder)


def digests(folder: pathlib.Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.iterdir())
        if p.is_file()
    }


def test_any_number_of_workers_writes_the_same_files(tmp_path):
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        engine.Local(workers).run(engine.Each("part", 5, square), folder)
        engine.Local(workers).run(engine.Merge("pair", 4, entries, 3, tell), folder)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    assert engine.total(tmp_path / "1", "part", 5) == {"read": 5, "records": 5, "odd": 2}


def test_a_merge_brings_all_entries_of_a_key_together_in_order(tmp_path):
    engine.Local(1).run(engine.Merge("pair", 4, entries, 3, tell), tmp_path)
    buckets = [np.load(engine.part_path(tmp_path, "pair", b, "rows.npy")) for b in range(3)]
    everything = np.concatenate([entries(n) for n in range(4)])
    for bucket, rows in enumerate(buckets):
        mine = everything[everything["key"] % 3 == bucket]
        np.testing.assert_array_equal(rows, np.sort(mine, order=["key", "row"]))
    assert sum(map(len, buckets)) == 400


def test_sorting_is_by_all_fields_in_turn():
    rng = np.random.default_rng(0)
    rows = np.zeros(200, np.dtype([("key", "u8"), ("hash", "u1", 3), ("row", "u4")]))
    rows["key"], rows["row"] = rng.integers(0, 3, 200), rng.integers(0, 5, 200)
    rows["hash"] = rng.integers(0, 2, (200, 3))
    found = engine.sort_entries(rows)
    expected = sorted((int(r["key"]), r["hash"].tolist(), int(r["row"])) for r in rows)
    assert [(int(r["key"]), r["hash"].tolist(), int(r["row"])) for r in found] == expected


def test_finished_parts_are_not_made_again_and_damaged_ones_are(tmp_path):
    job = engine.Each("part", 3, square)
    engine.Local(1).run(job, tmp_path)
    files = [engine.part_path(tmp_path, "part", n, "text.txt") for n in range(3)]
    times = [f.stat().st_mtime_ns for f in files]
    files[1].write_text("")
    engine.Local(1).run(job, tmp_path)
    assert [f.stat().st_mtime_ns == t for f, t in zip(files, times, strict=True)] == [
        True,
        False,
        True,
    ]
    assert files[1].read_text() == "1\n"


def test_a_full_disk_is_one_line_and_finished_parts_stay(tmp_path):
    with pytest.raises(UserError, match="the disk is full") as told:
        engine.Local(1).run(engine.Each("part", 5, fill), tmp_path)
    assert "\n" not in str(told.value)
    assert [engine.part_counts(tmp_path, "part", n) is not None for n in range(4)] == [True] * 3 + [
        False
    ]
    assert not list(tmp_path.glob(".*.tmp"))
    engine.Local(2).run(engine.Each("part", 5, square), tmp_path)
    assert engine.total(tmp_path, "part", 5)["records"] == 5


def test_a_full_disk_is_told_though_the_library_does_not_say_so(tmp_path, monkeypatch):
    def short(_number: int, _folder: pathlib.Path) -> dict[str, int]:
        raise OSError("100 requested and 52 written")  # NumPy's own words

    with pytest.raises(OSError, match="100 requested"):
        engine.Local(1).run(engine.Each("part", 2, short), tmp_path)
    write = pathlib.Path.write_bytes

    def full(path: pathlib.Path, data: bytes) -> int:
        if len(data) < engine.ROOM:
            return write(path, data)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(UserError, match="the disk is full"):
        engine.Local(1).run(engine.Each("part", 2, short), tmp_path)
    assert not list(tmp_path.iterdir())


RUN = """
import functools, importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("test_engine", {file!r})
module = importlib.util.module_from_spec(spec)
sys.modules["test_engine"] = module
sys.path.insert(0, {folder!r})
spec.loader.exec_module(module)
from intern_jax.curation.running import engine
if __name__ == "__main__":
    job = engine.Each("part", 12, functools.partial(module.square, slow=0.05))
    engine.Local(2).run(job, pathlib.Path({out!r}))
    engine.Local(2).run(engine.Merge("pair", 4, module.entries, 3, module.tell), pathlib.Path({out!r}))
"""


@pytest.mark.medium
def test_a_run_killed_at_ten_moments_ends_with_the_same_bytes(tmp_path):
    here = pathlib.Path(__file__)
    out = tmp_path / "out"
    program = tmp_path / "run.py"
    program.write_text(RUN.format(file=str(here), folder=str(here.parent), out=str(out)))
    rng = np.random.default_rng(0)
    killed = []
    for _ in range(10):
        child = subprocess.Popen([sys.executable, str(program)], start_new_session=True)
        killed.append(child.pid)
        time.sleep(rng.uniform(0.3, 1.6))
        child.send_signal(signal.SIGKILL)
        child.wait()
    time.sleep(2.5)  # workers notice that their parent is gone
    for group in killed:
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)
    subprocess.run([sys.executable, str(program)], check=True)
    expected = tmp_path / "expected"
    engine.Local(1).run(engine.Each("part", 12, square), expected)
    engine.Local(1).run(engine.Merge("pair", 4, entries, 3, tell), expected)
    assert digests(out) == digests(expected)
    assert not list(out.glob(".*.tmp"))


def test_a_worker_that_dies_is_one_line(tmp_path):
    with pytest.raises(UserError, match="a worker process was killed"):
        engine.Local(2).run(engine.Each("part", 4, functools.partial(_die)), tmp_path)


def _die(_number: int, _folder: pathlib.Path) -> dict[str, int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}
