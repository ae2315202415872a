"""Official Fashion-MNIST as a row: its files' true format, on a few drawn pictures."""

import gzip
import pathlib
import struct
import sys

import numpy as np
import pytest

from intern_jax import pipeline
from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.data.schema import sample as schema
from intern_jax.data.schema.fingerprints import fingerprint

CONFIG = pathlib.Path(__file__).parents[2] / "tools/bench/fashion_mnist.py"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twelve training and ten test pictures; pixel (row, column) of training picture i is i + 2 row + column."""
    for part, count in (("train", 12), ("t10k", 10)):
        pictures = np.add.outer(np.arange(count), np.add.outer(2 * np.arange(28), np.arange(28)))
        labels = np.arange(count) % 10
        for name, magic, values in (
            ("images-idx3", 2051, pictures),
            ("labels-idx1", 2049, labels),
        ):
            header = struct.pack(f">{1 + values.ndim}I", magic, *values.shape)
            content = gzip.compress(header + values.astype(np.uint8).tobytes())
            (tmp_path / f"{part}-{name}-ubyte.gz").write_bytes(content)
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    monkeypatch.syspath_prepend(CONFIG.parent)
    yield tmp_path
    sys.modules.pop("fashion_mnist", None)


def test_pictures_and_labels_are_those_of_the_files(folder):
    settings = pipeline.check(config_lib.load_config(CONFIG))
    row = config_lib.resolve(settings["benchmark"]["rows"][0])
    train, test = row.load("train"), row.load("test")
    assert (len(train), len(test)) == (12, 10)
    sample = schema.check(train[11], "here")
    assert sample["label"] == train.labels[11] == 1 and sample["key"] == "train/00011"
    assert sample["image"].shape == (28, 28, 3) and (sample["image"][3, 5] == 11 + 6 + 5).all()
    assert test.keys[0] == "t10k/00000" and train.classes[9] == "ankle boot"
    before = fingerprint(train)
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1] + b"\0"))
    assert fingerprint(row.load("train")) != before


def test_a_missing_file_is_one_line(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    row = config_lib.resolve("fashion_mnist:ROW")
    said = "t10k-labels-idx1-ubyte.gz: cannot be read .*; install dataset-fashion-mnist, or name"
    with pytest.raises(UserError, match=said):
        row.load("test")
