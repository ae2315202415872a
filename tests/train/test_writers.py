"""Rows on disk and in TensorBoard's files, also where the disk was full for a while."""

import json
import struct
import sys
import types
from typing import ClassVar

import pytest
from tensorboardX.proto.event_pb2 import Event
from toy import full_disk

from intern_jax.core.config import UserError
from intern_jax.train.progress.writers import Writer


def events(folder):
    """{(name, step): value} of all event files, in the order of their names, purged as TensorBoard does."""
    seen = {}
    for path in sorted(folder.iterdir(), key=lambda p: int(p.name.rsplit(".", 1)[1])):
        data = path.read_bytes()
        # A record that is cut off ends a file, as for TensorBoard.
        while len(data) >= 8 and len(data) >= 16 + (length := struct.unpack("<Q", data[:8])[0]):
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                seen = {k: v for k, v in seen.items() if k[1] < event.step}
            for value in event.summary.value:
                seen[value.tag, event.step] = value.simple_value
    return seen


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_values_that_are_not_finite_are_null_and_not_drawn(tmp_path):
    writer = Writer(tmp_path, 0)
    writer.write(1, {"loss": 2.0})
    writer.write(2, {"loss": float("nan")})
    writer.close()
    assert rows(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}]
    assert events(tmp_path / "tensorboard") == {("loss", 1): 2.0}


def test_what_is_cut_stands_in_neither(tmp_path):
    for start, value in ((0, 1.0), (2, 5.0)):
        writer = Writer(tmp_path, start)
        for step in range(start + 1, 5):
            writer.write(step, {"loss": value})
        writer.close()
    assert [row["loss"] for row in rows(tmp_path)] == [1.0, 1.0, 5.0, 5.0]
    assert [events(tmp_path / "tensorboard")["loss", step] for step in range(1, 5)] == [1, 1, 5, 5]


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"{",
        b"7",
        b"[]",
        b'{"loss": 1}',
        b'{"step": null}',
        b'{"step": 2, "loss": "1"}',
    ],
)
def test_a_line_that_is_no_row_is_left_out_and_told(tmp_path, caplog, line):
    good = [json.dumps({"step": step, "loss": 1.0}).encode() for step in (1, 3)]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([good[0], line, good[1], line]))
    writer = Writer(tmp_path, 4)
    writer.write(5, {"loss": 2.0})
    writer.close()
    assert [row["step"] for row in rows(tmp_path)] == [1, 3, 5]
    assert caplog.text.count("line 2 is no row") == 1 and "line 4" not in caplog.text


def test_a_full_disk_stops_nothing_and_what_was_missed_is_written_when_there_is_room(tmp_path):
    writer = Writer(tmp_path, 0)
    writer.write(1, {"loss": 0.5})
    with full_disk(size=200):
        for step in range(2, 300):
            writer.write(step, {"loss": 0.5, "error": 0.25})
    writer.write(300, {"loss": 0.5})
    writer.close()
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 301))
    drawn = events(tmp_path / "tensorboard")
    assert len(list((tmp_path / "tensorboard").iterdir())) <= 3
    assert len(drawn) == 300 + 298 and drawn["error", 299] == 0.25


class Kept:
    """What clu's writers are to us."""

    made: ClassVar[list] = []

    def __init__(self, logdir):
        self.logdir, self.said = logdir, []
        self.made.append(self)

    def write_scalars(self, step, scalars):
        if self.logdir == "full":
            raise OSError("no room")
        self.said.append((step, dict(scalars)))

    def flush(self):
        self.said.append("flush")

    def close(self):
        self.said.append("close")


class Plain(Kept):
    def __init__(self):
        super().__init__(None)


@pytest.fixture
def clu(monkeypatch):
    """A clu.metric_writers that needs no TensorFlow."""
    module = types.ModuleType("clu.metric_writers")
    module.KeptWriter, module.create_default_writer = Kept, Plain
    monkeypatch.setitem(sys.modules, "clu.metric_writers", module)
    monkeypatch.setattr("clu.metric_writers", module, raising=False)
    monkeypatch.setattr(Kept, "made", [])


@pytest.mark.usefixtures("clu")
def test_a_writer_of_clu_gets_every_row(tmp_path):
    writer = Writer(tmp_path, 0, clu="KeptWriter")
    writer.write(1, {"loss": 2.0, "rate": float("inf")})
    writer.cut(0)
    writer.write(1, {"loss": 3.0})
    writer.close()
    (kept,) = Kept.made
    assert kept.logdir == str(tmp_path / "clu")
    assert kept.said == [(1, {"loss": 2.0}), "flush", (1, {"loss": 3.0}), "flush", "close"]
    assert [row["loss"] for row in rows(tmp_path)] == [3.0]
    Writer(tmp_path, 0, clu="create_default_writer").close()
    assert Kept.made[1].said == ["close"]
    assert Writer(None, 0, clu="KeptWriter").clu is None


@pytest.mark.usefixtures("clu")
def test_a_writer_of_clu_that_fails_stops_nothing(tmp_path, caplog):
    writer = Writer(tmp_path, 0, clu="KeptWriter")
    Kept.made[0].logdir = "full"
    writer.write(1, {"loss": 2.0})
    writer.write(2, {"loss": 1.0})
    writer.close()
    assert [row["loss"] for row in rows(tmp_path)] == [2.0, 1.0]
    assert caplog.text.count("KeptWriter fails (no room); training continues") == 1


@pytest.mark.usefixtures("clu")
def test_mistakes_with_clu(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no 'Kept'; known: KeptWriter, create_default_writer"):
        Writer(tmp_path, 0, clu="Kept")
    monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
    monkeypatch.delattr("clu.metric_writers")
    with pytest.raises(UserError, match=r"cannot be imported .*pip install 'intern-jax\[tf\]'"):
        Writer(tmp_path, 0, clu="KeptWriter")
