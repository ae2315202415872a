"""Read PyTorch's zip checkpoints (.pth, .pt) to nested dicts of numpy arrays, without unpickling.

Such a file is a zip archive with a pickle, `ROOT/data.pkl`, and one entry per tensor storage, `ROOT/data/KEY`. The
pickle is read as data. `pickletools.genops` lists its opcodes, and a small stack machine executes those that a state
dict needs. (`pickletools` is the standard library's disassembler; it cannot load a pickle.) A global is a name in a
table, never an object. Nothing is imported or called, and every size is checked before memory is allocated. A file
with anything else is refused with one line.

A TorchScript archive, such as OpenAI's CLIP files, has the same form. Its pickle holds objects of modules, which become
tables of their attributes, and its code is never read.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pathlib
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided

from intern_jax.core.config import UserError

# A checkpoint of a billion parameters with the optimizer's state is far below all of these limits.
MAX_ENTRIES = 65_536
MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_PICKLE_BYTES = 16 * 2**20
MAX_OPCODES = 4_000_000
MAX_NODES = 1_000_000
MAX_DEPTH = 32
MAX_AXES = 32
MAX_SIZE = 2**48
# Tensors may share a storage (tied weights), but together they must not be many times as large as the file.
MAX_GROWTH = 4

_ZIP_MAGIC = b"PK\x03\x04"
# Before version 1.6 `torch.save` wrote a pickle of this long integer first.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"

_DTYPES = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.ComplexFloatStorage": np.dtype(np.complex64),
    "torch.ComplexDoubleStorage": np.dtype(np.complex128),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
_TENSOR_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")

# The classes of a TorchScript archive, whose objects are tables of tensors and tables.
_SCRIPTED = "__torch__."

_SAVE_STATE = "in PyTorch, save the tensors alone: torch.save(model.state_dict(), FILE)"
_COPY_AGAIN = "copy it again"


def load(path: str | os.PathLike[str]) -> dict[str | int, Any]:
    """Read a checkpoint: nested dicts, lists and tuples of numpy arrays, numbers, strings and None.

    Arrays are C-contiguous and may be read-only; bfloat16 is that of ml_dtypes. A file that is missing, damaged or
    older than PyTorch 1.6 is a UserError, and so is one that holds anything but tensors and plain values. Its one line
    names the file and what was found. Of a TorchScript archive the state dict is returned.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a PyTorch checkpoint (.pth, .pt)")
    try:
        with path.open("rb", buffering=0) as file:
            _check_magic(file.read(len(_LEGACY_MAGIC)))
            reader, size = _Reader(file), path.stat().st_size
            with zipfile.ZipFile(reader) as archive:
                reader.limit = size  # of the entries, now that the directory is read
                return _read(_Entries(archive, size))
    except _Refused as refusal:
        raise UserError(f"{path}: {refusal}") from None
    except _DAMAGE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise UserError(f"{path}: cannot be read ({reason}); {_COPY_AGAIN}") from None


class _Refused(Exception):
    """A file that is refused: the problem and the remedy."""

    def __init__(self, problem: str, remedy: str = _SAVE_STATE):
        super().__init__(f"{problem}; {remedy}")


# The exceptions of zipfile, pickletools and numpy on damaged content.
_DAMAGE = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OverflowError, EOFError),
    *(struct.error, OSError, IndexError, KeyError, TypeError),
)


def _check_magic(start: bytes) -> None:
    if start.startswith(_LEGACY_MAGIC):
        raise _Refused(
            "has PyTorch's format from before version 1.6, which is not read",
            "in PyTorch, save it again: torch.save(torch.load(FILE, weights_only=True), FILE)",
        )
    if not start.startswith(_ZIP_MAGIC):
        raise _Refused("no PyTorch checkpoint (not a zip file)", "name a .pth or .pt file")


class _Reader(io.BufferedReader):
    """A file for zipfile that limits the size of one read of the directory.

    zipfile alone reads as many bytes of directory as the file claims to have.
    """

    limit = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1) -> bytes:
        wanted = self.limit if size is None or size < 0 else size
        if wanted > self.limit:
            raise _Refused(f"has a zip directory of {size} bytes")
        return super().read(wanted)


class _Entries:
    """The entries of the archive; all are stored without compression, and none overlaps another."""

    def __init__(self, archive: zipfile.ZipFile, file_bytes: int):
        self.file_bytes = file_bytes
        self._archive = archive
        self._infos = _checked_infos(archive.infolist(), file_bytes)
        pickles = [name for name in self._infos if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _Refused(f"no PyTorch checkpoint ({len(pickles)} entries data.pkl)")
        self._root = pickles[0].removesuffix("data.pkl")

    def size(self, name: str) -> int | None:
        """The size of an entry in bytes; None if there is no such entry."""
        info = self._infos.get(self._root + name)
        return None if info is None else info.file_size

    def read(self, name: str) -> bytes:
        return self._archive.read(self._infos[self._root + name])


def _checked_infos(infos: list[zipfile.ZipInfo], file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    if len(infos) > MAX_ENTRIES:
        raise _Refused(f"has {len(infos)} zip entries, more than {MAX_ENTRIES}")
    # The code of a TorchScript archive is compressed; it is left out, so that nothing can read it.
    infos = [info for info in infos if "/code/" not in info.filename]
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _Refused(f"compressed entry {info.filename!r:.80}, which torch.save never writes")
    if sum(info.file_size for info in infos) > file_bytes:
        raise _Refused("zip entries larger than the file: they overlap", _COPY_AGAIN)
    by_name = {info.filename: info for info in infos}
    if len(by_name) < len(infos):
        raise _Refused("has two zip entries of one name")
    return by_name


def _read(entries: _Entries) -> dict[str | int, Any]:
    if entries.size("byteorder") is not None and entries.read("byteorder") != b"little":
        raise _Refused("written by a big-endian machine", "save it again on another")
    if (entries.size("data.pkl") or 0) > MAX_PICKLE_BYTES:
        raise _Refused(f"has a data.pkl of more than {MAX_PICKLE_BYTES} bytes")
    value = _Machine(entries).run(entries.read("data.pkl"))
    if not isinstance(value, dict):
        raise _Refused("holds no table of named tensors")
    found = _Converter(entries).convert(value)
    return dict(_state(found)) if isinstance(value, _Object) else found


def _state(table: dict[str | int, Any], prefix: str = "") -> Iterator[tuple[str | int, Any]]:
    """The arrays of nested modules by their names in a state dict."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _state(value, f"{prefix}{key}.")
        elif isinstance(value, np.ndarray):
            yield f"{prefix}{key}", value


# The values on the machine's stack that are not plain.


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


class _Object(dict[str | int, Any]):
    """A module of a TorchScript archive: its attributes by name."""


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage that was found to be inside it; offset and strides are in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize


class _Machine:
    """The pickle machine for the opcodes that `torch.save` writes for dicts of tensors; see `_STEPS`."""

    def __init__(self, entries: _Entries):
        self.entries = entries
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name == "STOP":
                break
            if count >= MAX_OPCODES:
                raise _Refused(f"has more than {MAX_OPCODES} opcodes in data.pkl")
            if opcode.name not in _STEPS:
                raise _Refused(f"holds the opcode {opcode.name}, and only tensors are read")
            _STEPS[opcode.name](self, argument)
        if len(self.stack) != 1 or self.marked:
            raise _Refused(
                "has a data.pkl that ends with a stack that is not one value", _COPY_AGAIN
            )
        return self.stack.pop()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def mark(self, _: None) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def memoize(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("stack underflow")
        items = tuple(self.stack[-count:])
        self.stack[-count:] = [items]

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _Refused("has items appended to something that is not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise _Refused("has items set on something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_checked_key(key)] = value

    def find_global(self, name: str) -> None:
        known = name in _DTYPES or name in _CALLS or name in _TENSOR_TYPES
        if not known and not name.startswith(_SCRIPTED):
            raise _Refused(f"holds the global {name!r:.120}, and only tensors are read")
        self.push(_Global(name))

    def stack_global(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _Refused("holds a global whose name is not text")
        self.find_global(f"{module}.{name}")

    def reduce(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.push(_call(function, arguments))

    def new_object(self, _: None) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        scripted = isinstance(kind, _Global) and kind.name.startswith(_SCRIPTED)
        if not scripted or arguments != ():
            raise _Refused("holds an object that is no module of TorchScript")
        self.push(_Object())

    def build(self, _: None) -> None:
        if type(self.stack[-2]) is _Object:
            attributes = self.stack.pop()
            if type(attributes) is not dict:
                raise _Refused("has a module whose attributes are no table")
            self.stack[-1].update(attributes)
            return
        # The attributes are `_metadata` of a state dict, or whatever Python code added to a tensor.
        self.stack.pop()
        if not isinstance(self.stack[-1], dict | _Tensor):
            raise _Refused("has attributes set on something that is not a table of tensors")

    def storage(self, _: None) -> None:
        match self.stack.pop():
            case ("storage", _Global(name), str(key), _, int(count)) if (
                name in _DTYPES and 0 <= count < MAX_SIZE
            ):
                self.push(self.checked_storage(key, _DTYPES[name], count))
            case _:
                raise _Refused("holds a persistent id that is not a tensor's storage")

    def checked_storage(self, key: str, dtype: np.dtype, count: int) -> _Storage:
        size = self.entries.size(f"data/{key}")
        if size is None:
            raise _Refused(f"lacks the bytes of the tensor storage {key!r:.40}", _COPY_AGAIN)
        if count * dtype.itemsize != size:
            raise _Refused(
                f"has {size} bytes of the tensor storage {key!r:.40} where {count} x {dtype.itemsize} "
                "are announced",
                _COPY_AGAIN,
            )
        return _Storage(key, dtype, count)


def _checked_key(key: Any) -> str | int:
    # Only plain keys are allowed: the hash of a deeply nested tuple would exhaust the C stack.
    if type(key) not in (str, int):
        raise _Refused(f"holds a key of type {type(key).__name__} instead of a name")
    return key


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda _machine, _: None,
    "FRAME": lambda _machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), _Machine.push),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": _Machine.mark,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.memoize),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])
    ),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": lambda machine, name: machine.find_global(name.replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "NEWOBJ": _Machine.new_object,
    "BINPERSID": _Machine.storage,
}


def _call(function: Any, arguments: Any) -> Any:
    name = function.name if isinstance(function, _Global) else type(function).__name__
    if name not in _CALLS or not isinstance(arguments, tuple):
        raise _Refused(f"holds a call of {name!r:.80}, and only tensors are read")
    try:
        return _CALLS[name](*arguments)
    except TypeError:
        raise _Refused(f"holds a call of {name} with other arguments than PyTorch's") from None


def _ordered_dict() -> dict[str | int, Any]:
    return {}


def _rebuild_tensor(
    storage, offset, shape, strides, _grad=None, _hooks=None, extra=None
) -> _Tensor:
    """A tensor, after a check that all its elements are inside its storage and that it is not larger."""
    if not isinstance(storage, _Storage):
        raise _Refused("holds a tensor without storage")
    if extra:
        raise _Refused("holds a conjugate, negative or wrapped view of a tensor")
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise _Refused("holds a tensor whose shape is not a tuple")
    if len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise _Refused(f"holds a tensor of {len(shape)} axes and {len(strides)} strides")
    for value in (offset, *shape, *strides):
        if type(value) is not int or not 0 <= value < MAX_SIZE:
            # The value is not shown: if it is not a number, its text may be endless.
            raise _Refused("holds a tensor with a size, stride or offset below 0 or out of range")
    if math.prod(shape):
        last = offset + sum(
            (size - 1) * stride for size, stride in zip(shape, strides, strict=True)
        )
        if last >= storage.count:
            raise _Refused(f"holds a tensor of shape {list(shape)} that ends outside its storage")
        if math.prod(shape) > storage.count:
            raise _Refused(f"holds a tensor of shape {list(shape)} expanded beyond its storage")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data, _requires_grad=None, _hooks=None, _state=None) -> _Tensor:
    if not isinstance(data, _Tensor):
        raise _Refused("holds a parameter that is not a tensor")
    return data


def _rebuild_from_type(function, kind, arguments, _state) -> _Tensor:
    plain = isinstance(kind, _Global) and kind.name in _TENSOR_TYPES
    if not plain or not isinstance(function, _Global) or function.name not in _REBUILD:
        raise _Refused("holds a tensor of a class of its own")
    return _call(function, arguments)


def _size(axes) -> tuple:
    if not isinstance(axes, tuple):
        raise _Refused("holds a torch.Size that is not a tuple")
    return axes


def _device(kind, index=None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise _Refused("holds a torch.device that is not a name")
    return kind if index is None else f"{kind}:{index}"


_REBUILD: dict[str, Callable[..., _Tensor]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}
_CALLS: dict[str, Callable[..., Any]] = {
    **_REBUILD,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch.device": _device,
}


class _Converter:
    """Replaces tensors in the machine's value by arrays, and refuses endless nesting."""

    def __init__(self, entries: _Entries):
        self.entries = entries
        self.nodes = 0
        self.bytes_left = MAX_GROWTH * entries.file_bytes
        self.storages: dict[str, bytes] = {}
        self.arrays: dict[int, np.ndarray] = {}

    def convert(self, value: Any, depth: int = 0) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise _Refused("holds tables nested without end")
        if isinstance(value, dict):
            return {key: self.convert(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.convert(item, depth + 1) for item in value)
        if isinstance(value, _Tensor):
            # The identity is a safe key, because the machine's value keeps every tensor alive.
            if id(value) not in self.arrays:
                self.arrays[id(value)] = self.array(value)
            return self.arrays[id(value)]
        if isinstance(value, _Global | _Storage):
            raise _Refused("holds a bare type or storage instead of a tensor")
        return value

    def array(self, tensor: _Tensor) -> np.ndarray:
        dtype = tensor.storage.dtype
        if not tensor.bytes:
            return np.zeros(tensor.shape, dtype)
        self.bytes_left -= tensor.bytes
        if self.bytes_left < 0:
            raise _Refused(f"holds tensors that take {MAX_GROWTH} times the file's size")
        if tensor.storage.key not in self.storages:
            self.storages[tensor.storage.key] = self.entries.read(f"data/{tensor.storage.key}")
        flat = np.frombuffer(self.storages[tensor.storage.key], dtype)[tensor.offset :]
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        # `flat` reaches to the end of the storage, and all elements were found to be before that.
        array = np.asarray(as_strided(flat, tensor.shape, strides), order="C")
        return np.asarray(array.view(np.uint8) != 0) if dtype == np.bool_ else array
