"""Worker processes give the same batches as threads, say when they die, and leave nothing behind."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.batches import workers
from intern_jax.data.batches.stream import Segment, Stream

PARTS = '''
import os
import threading
import numpy as np
from intern_jax.core.config import UserError
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.make.views import classification


class Noise:
    """Pictures drawn from their number; some are damaged."""

    family, classes, labels = "classification", (), None

    def __init__(self, count, name, damaged=()):
        self.count, self.name, self.damaged = count, name, damaged
        self.keys = [str(i) for i in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.damaged:
            raise CorruptSample(self.keys[index], "truncated picture")
        image = np.random.default_rng(index).integers(0, 256, (9, 11, 3), np.uint8)
        return {"image": image, "label": index, "key": self.keys[index]}


def seen(sample, rng, fails="", at=-1):
    """A view, who made it, and whether that process has started a jax backend."""
    row = classification(sample, rng, size=8)
    if row["label"] == at:
        if fails == "user":
            raise UserError("cls/label: 5; give another")
        error = RuntimeError("cannot go on")
        error.lock = threading.Lock()
        raise error
    from jax._src import xla_bridge

    started = xla_bridge.backends_are_initialized()
    return {**row, "noise": rng.random(3), "backend": np.bool_(started), "pid": os.getpid()}


def wide(sample, rng):
    return {"numbers": np.full(1 << 20, sample["label"], np.int16)}
'''


@pytest.fixture(scope="module", autouse=True)
def parts(tmp_path_factory):
    """Puts a module where spawned processes find it too."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "worker_parts.py").write_text(PARTS)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def groups(damaged=(3, 4), **transform):
    source = {"fn": "worker_parts:Noise", "count": 40, "name": "noise", "damaged": damaged}
    other = {"fn": "worker_parts:Noise", "count": 9, "name": "rest", "weight": 0.5}
    return {
        "cls": {
            "sources": [source, {**other, "shuffle": {"block": 2, "window": 3}}],
            "batch_size": 8,
            "transform": {"fn": "worker_parts:seen", **transform},
        },
        "wide": {
            "sources": [other],
            "batch_size": 2,
            "transform": {"fn": "worker_parts:wide"},
        },
    }


@pytest.fixture(scope="module")
def stream():
    with Stream(groups(), [Segment(seed=3)], workers=2) as stream:
        yield stream


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_same(batch, expected):
    assert list(batch) == list(expected)
    for name, fields in expected.items():
        assert list(batch[name]) == list(fields)
        for field, value in fields.items():
            assert batch[name][field].dtype == value.dtype and type(value) is np.ndarray
            if field not in ("pid", "backend"):
                np.testing.assert_array_equal(batch[name][field], value, strict=True)


def processes(stream):
    return [worker._process for worker in stream._processes._workers]


def test_two_processes_give_what_threads_give_from_any_start(stream):
    here = Stream(groups(), [Segment(seed=3)])
    expected = [here.batch_at(t) for t in range(12)]
    made_by = set()
    for start in (0, 7, 3):
        with stream.iterate(start) as batches:
            for t, batch in enumerate(take(batches, 5), start):
                assert_same(batch, expected[t])
                made_by |= set(batch["cls"]["pid"].tolist())
                assert not batch["cls"]["backend"].any()
    assert made_by == {process.pid for process in processes(stream)}
    assert os.getpid() not in made_by
    assert_same(stream.batch_at(11), expected[11])


def test_a_new_segment_reaches_the_same_processes(stream):
    before = [process.pid for process in processes(stream)]
    old = stream.iterate(0)
    stream.open_segment(4, 20, seed=8)
    assert list(old) == []
    other = Stream(groups(), [Segment(seed=8)])
    with stream.iterate(3) as batches:
        third, fourth = take(batches, 2)
    assert_same(third, Stream(groups(), [Segment(seed=3)]).batch_at(3))
    assert_same(fourth, other.batch_at(20))
    stream.set_segments([Segment(seed=3)])
    assert [process.pid for process in processes(stream)] == before


def test_faults_are_those_of_all_processes():
    here = Stream(groups())
    counts = []
    for step in range(20):
        here.batch_at(step)
        counts.append(here.faults().get("noise: truncated picture", 0))
    with Stream(groups(), workers=1, prefetch=4) as stream:
        with stream.iterate() as batches:
            take(batches, 14)
            counted = stream.faults()
        assert list(counted) == ["noise: truncated picture"]
        assert 0 < counts[13] <= counted["noise: truncated picture"] <= counts[19]
        last = stream._processes.faults()
    assert stream.faults() == dict(last)


def test_hosts_with_processes_have_blocks_of_the_whole(stream):
    whole = stream.batch_at(5)
    hosts = [Stream(groups(), [Segment(seed=3)], rows=(host, 2), workers=1) for host in range(2)]
    for host, part in enumerate(hosts):
        with part, part.iterate(5) as batches:
            batch = next(batches)
        block = slice(4 * host, 4 * host + 4)
        np.testing.assert_array_equal(batch["cls"]["image"], whole["cls"]["image"][block])
        np.testing.assert_array_equal(batch["cls"]["noise"], whole["cls"]["noise"][block])


@pytest.mark.medium
@pytest.mark.parametrize(
    ("fails", "error", "said"),
    [("user", UserError, "cls/label: 5; give"), ("other", RuntimeError, "RuntimeError: cannot go")],
)
def test_an_error_in_a_process_reaches_its_step(fails, error, said):
    here = Stream(groups())
    labels = [here.batch_at(t)["cls"]["label"] for t in range(10)]
    step = next(t for t, row in enumerate(labels) if 30 in row)
    with Stream(groups(fails=fails, at=30), workers=1) as stream:
        batches = stream.iterate()
        take(batches, step)
        with pytest.raises(error, match=said) as caught:
            next(batches)
        assert any(f"step {step}" in note for note in caught.value.__notes__)
        assert list(batches) == []


def test_a_killed_process_is_said_at_once_and_nothing_is_left(monkeypatch):
    names = []

    def named(*args, **kwargs):
        block = memory(*args, **kwargs)
        names.append(block.name)
        return block

    memory = workers.SharedMemory
    monkeypatch.setattr(workers, "SharedMemory", named)
    stream = Stream(groups(), workers=2)
    batches = stream.iterate()
    take(batches, 4)
    children = processes(stream)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(children[0].pid, number)
    take(batches, 4)
    # Each process has its block, and none a name by now.
    assert len(names) == 2
    assert not any((workers.SHARED / name).exists() for name in names)
    os.kill(children[1].pid, signal.SIGKILL)
    with pytest.raises(UserError, match=f"process {children[1].pid} .*was killed by SIGKILL"):
        take(batches, 50)
    assert children[0].is_alive()
    stream.close()
    assert not any(child.is_alive() for child in children)
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_closing_does_not_wait_for_processes_that_still_start():
    stream = Stream(groups(), workers=1)
    child = processes(stream)[0]
    batches = stream.iterate()
    stream.close()
    assert child.exitcode == -signal.SIGKILL and list(batches) == []
    stream = Stream(groups(), workers=1)
    child = processes(stream)[0]
    del stream
    gc.collect()
    assert child.exitcode == -signal.SIGKILL


TRAINER = """
import sys, time
if __name__ == "__main__":
    sys.path[:0] = sys.argv[2:]
    import test_workers
    from intern_jax.data.batches.stream import Stream
    stream = Stream(test_workers.groups(), workers=1)
    batches = stream.iterate()
    next(batches)
    print(test_workers.processes(stream)[0].pid, flush=True)
    time.sleep(float(sys.argv[1]))
"""


@pytest.mark.medium
@pytest.mark.parametrize("killed", [True, False])
def test_no_process_outlives_a_trainer(parts, tmp_path, killed):
    program = tmp_path / "trainer.py"
    program.write_text(TRAINER)
    folders = [str(parts), str(pathlib.Path(__file__).parent)]
    command = [sys.executable, str(program), "60" if killed else "0", *folders]
    env = {**os.environ, "PYTHONPATH": str(pathlib.Path(workers.__file__).parents[3])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as trainer:
        child = int(trainer.stdout.readline())
        if killed:
            assert is_running(child)
            trainer.kill()
        assert trainer.wait(timeout=30) == (-signal.SIGKILL if killed else 0)
    deadline = time.time() + 20
    while is_running(child) and time.time() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_memory_that_is_missing_is_said_in_one_line(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workers, "_reserve", full)
    said = r"shared memory for a batch of 4\.0 MiB \(No space"
    with Stream(groups(), workers=1) as stream, pytest.raises(UserError, match=said):
        next(stream.iterate())


def test_mistakes():
    class Ready:
        def __getitem__(self, _):
            return {"x": np.zeros(4)}

    with pytest.raises(UserError, match="workers: -1; give 0 or more"):
        Stream(groups(), workers=-1)
    with pytest.raises(UserError, match="stream/ready: ready batches stay in this process"):
        Stream({"ready": Ready(), **groups()}, workers=1)
    config = {"cls": {**groups()["cls"], "transform": lambda *_: {"x": 1}}}
    with pytest.raises(UserError, match=r"not a plain value; name functions as package\.module:fn"):
        Stream(config, workers=1)
