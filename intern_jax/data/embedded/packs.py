"""Packs: an ArrayRecord file with a JSON index. A pack is read once, and its pictures stay decoded in memory.

A record is a uint32 header length, a JSON header {"key", "blobs": {name: size}, ...}, then the
blobs, which are WebP or PNG files. The index holds facts and one list per column, in record order,
so keys, labels and splits need no decoding. Records are numpy values; nothing here imports jax.
"""

import functools
import io
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.data.schema import fingerprints

FOLDER = Path(__file__).parent
MANIFEST = FOLDER / "decontaminated.json"
NAMES = ("emoji", "clipart", "fashion", "furniture", "rooms")
CUT_OUTS = ("emoji", "clipart", "furniture")
FORMATS = ("WEBP", "PNG")
LARGEST_SIDE = 512


class Embedded:
    """A source of the embedded data, whose manifest tools/embedded/contamination.py made."""

    @staticmethod
    def decontaminated() -> dict[str, Any]:
        """Per mini row: the digest of the test pictures that the pre-training pictures were compared with."""
        return strict_json.parse(MANIFEST.read_bytes())["rows"]

    @staticmethod
    def unseen() -> list[str]:
        """Concepts that were held out by name: none; the rows' own concepts are held out by their splits."""
        return []


class Pack:
    """One pack: its `index` (facts and columns), and `header(i)` and `array(i)` of record i."""

    def __init__(self, name: str):
        self.name = name
        self.path = FOLDER / f"{name}.array_record"
        index = FOLDER / f"{name}.json"
        if not index.is_file() or not self.path.is_file():
            raise UserError(
                f"{self.path}: missing; reinstall intern-jax or run tools/build_embedded.py"
            )
        self.index: dict[str, Any] = strict_json.parse(index.read_bytes())
        self.keys: list[str] = self.index["key"]
        self._lock = threading.Lock()
        self._raw: list[bytes] | None = None
        self._decoded: dict[tuple[int, str], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def _record(self, i: int) -> tuple[dict[str, Any], bytes, int]:
        """(header, record, offset of the first blob) of record i; reads the file on first use."""
        if self._raw is None:
            with self._lock:
                if self._raw is None:
                    self._raw = self._read()
        raw = self._raw[i]
        (length,) = struct.unpack_from("<I", raw)
        return strict_json.parse(raw[4 : 4 + length]), raw, 4 + length

    def _read(self) -> list[bytes]:
        from array_record.python import array_record_module

        reader = array_record_module.ArrayRecordReader(
            str(self.path), options="readahead_buffer_size:0,max_parallelism:0"
        )
        try:
            records = reader.read_all()
        finally:
            reader.close()
        if len(records) != len(self):
            raise UserError(
                f"{self.path}: {len(records)} records but {len(self)} in the index;"
                " reinstall intern-jax"
            )
        return records

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the pack's two files, which are read once."""
        files = (self.path, self.path.with_suffix(".json"))
        return fingerprints.combine(map(fingerprints.of_content, files))

    def header(self, i: int) -> dict[str, Any]:
        """The JSON header of record i (key, boxes ...)."""
        return self._record(i)[0]

    def array(self, i: int, name: str = "image") -> np.ndarray:
        """One decoded blob, kept in memory and read-only: uint8 [H, W, C], [H, W] or uint16."""
        found = self._decoded.get((i, name))
        if found is None:
            header, raw, offset = self._record(i)
            for blob, size in header["blobs"].items():
                if blob == name:
                    data, where = raw[offset : offset + size], f"{self.path}: {header['key']}"
                    found = _decode(data, where, self.name in CUT_OUTS)
                offset += size
            if found is None:
                raise KeyError(f"{header['key']} has no blob {name!r}")
            found.setflags(write=False)
            self._decoded[i, name] = found
        return found


def _decode(data: bytes, where: str, cut_out: bool) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if max(image.size) > LARGEST_SIDE:
            raise UserError(f"{where}: picture of {image.size}; reinstall intern-jax")
        # WebP drops an alpha channel that is opaque everywhere; a source keeps one shape.
        return np.array(image.convert("RGBA") if cut_out else image)


_LOCK = threading.Lock()


def pack(name: str) -> Pack:
    """The pack of that name. There is one object per process, so that its cache is shared."""
    with _LOCK:
        return _pack(name)


@functools.cache
def _pack(name: str) -> Pack:
    return Pack(name)
