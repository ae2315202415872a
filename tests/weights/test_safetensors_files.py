"""Safetensors files against the library's own reader, and files that are not what they say."""

import json
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from intern_jax.core.config import UserError
from intern_jax.weights import safetensors as files


def make_tree() -> dict:
    return {
        "params": {"a": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}},
        "scalar": np.float32(2.5),
        "half": np.arange(3, dtype=ml_dtypes.bfloat16),
        "transposed": np.arange(6, dtype=np.int32).reshape(2, 3).T,
        "flag": np.array([True, False]),
        "empty": np.zeros((0, 4), np.float16),
    }


def test_a_tree_comes_back_bit_for_bit_and_others_can_read_it(tmp_path):
    path = tmp_path / "m.safetensors"
    files.save(path, make_tree(), {"version": "1"})
    back = files.load(path)
    assert back["params"]["a"]["kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for name in ("scalar", "half", "transposed", "flag", "empty"):
        expected = np.asarray(make_tree()[name])
        assert back[name].dtype == expected.dtype and back[name].shape == expected.shape
        assert back[name].tobytes() == expected.tobytes()
    assert files.read_header(path)["__metadata__"] == {"version": "1"}
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    with safetensors.safe_open(path, framework="np") as other:
        np.testing.assert_array_equal(
            other.get_tensor("params/a/kernel"), make_tree()["params"]["a"]["kernel"]
        )


@pytest.mark.parametrize("key", ["a/b", ""])
def test_keys_that_would_change_the_tree_are_refused(tmp_path, key):
    with pytest.raises(UserError, match="cannot be part"):
        files.save(tmp_path / "m.safetensors", {"x": {key: np.zeros(1)}})
    assert not list(tmp_path.iterdir())


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(start: int, end: int, shape: tuple[int, ...] = (1,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


BROKEN = {
    "empty file": b"",
    "pickle": pickle.dumps({"a": 1}),
    "header longer than the file": raw(b"{}", length=10**6),
    "header longer than allowed": raw(b"{}", length=2**60),
    "not json": raw(b"{oops}"),
    "not a table": raw(b"[1, 2]"),
    "deep json": raw(b"[" * 100_000),
    "data cut short": raw(json.dumps({"a": entry(0, 4)}).encode(), b"\0\0"),
    "offsets outside": raw(json.dumps({"a": entry(0, 400)}).encode(), bytes(4)),
    "overlap": raw(json.dumps({"a": entry(0, 4), "b": entry(2, 6)}).encode(), bytes(6)),
    "size against shape": raw(json.dumps({"a": entry(0, 4, (9,))}).encode(), bytes(4)),
    "huge shape": raw(json.dumps({"a": entry(0, 4, (2**62, 4))}).encode(), bytes(4)),
    "name twice": raw(json.dumps({"a": entry(0, 4), "a/b": entry(4, 8)}).encode(), bytes(8)),
    "empty part": raw(json.dumps({"a//b": entry(0, 4)}).encode(), bytes(4)),
    "unknown dtype": raw(json.dumps({"a": entry(0, 1, (1,), "F8_E4M3")}).encode(), bytes(1)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_and_hostile_files_are_one_line(tmp_path, name):
    path = tmp_path / "m.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(UserError, match=r"m\.safetensors: ") as error:
        files.load(path)
    assert "\n" not in str(error.value) and ";" in str(error.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        files.load(tmp_path / "none.safetensors")
