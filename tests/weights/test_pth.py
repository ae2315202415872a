"""PyTorch's zip files: what PyTorch wrote is read as it was, and hostile files are refused with one line."""

import pathlib
import re
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.weights.published import pth

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "weights"

# A pickle's opcodes by hand: what a hostile file would have, and PyTorch would not write.
NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"
REDUCE, BUILD, STOP = b"R", b"b", b"."
FLOATS = np.arange(6, dtype="<f4")


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def list_of(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def table(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def name(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(function: str, *arguments: bytes) -> bytes:
    return name(function) + tuple_of(*arguments) + REDUCE


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def storage(key: str = "0", kind: str = "torch.FloatStorage", count: int = 6) -> bytes:
    parts = (text("storage"), name(kind), text(key), text("cpu"), number(count))
    return tuple_of(*parts) + b"Q"


def tensor(
    where: bytes | None = None,
    offset: int = 0,
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    more: tuple[bytes, ...] = (),
) -> bytes:
    return call(
        "torch._utils._rebuild_tensor_v2",
        where or storage(),
        number(offset),
        tuple_of(*map(number, shape)),
        tuple_of(*map(number, strides)),
        FALSE,
        call("collections.OrderedDict"),
        *more,
    )


def write(
    path: pathlib.Path, body: bytes, storages: dict[str, bytes] | None = None, **changes
) -> pathlib.Path:
    """A file as torch.save lays it out; `changes` are more entries, or other ones."""
    entries = {"data.pkl": b"\x80\x02" + body + STOP, "byteorder": b"little"} | changes
    for key, data in (storages or {"0": FLOATS.tobytes()}).items():
        entries[f"data/{key}"] = data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for entry, data in entries.items():
            archive.writestr(f"model/{entry}", data)
    return path


def refused(path: pathlib.Path) -> str:
    """The one line that reading the file must end with."""
    with pytest.raises(UserError) as error:
        pth.load(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ") and "\n" not in line and "; " in line
    assert len(line) < 400 + len(str(path))
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize("file", ["plain.pth", "protocol4.pth"])
def test_what_pytorch_wrote_is_read_as_it_was(file):
    content = pth.load(FIXTURES / file)
    reference = np.load(FIXTURES / "plain.npz", allow_pickle=False)
    tensors = content["tensors"]
    assert set(tensors) == set(reference.files) and len(tensors) > 15
    for key, expected in reference.items():
        array = tensors[key]
        assert array.shape == expected.shape and array.flags.c_contiguous, key
        # numpy cannot store bfloat16; the reference has its values as float32.
        kind = ml_dtypes.bfloat16 if key == "bfloat16" else expected.dtype
        assert array.dtype == kind, key
        np.testing.assert_array_equal(array.astype(expected.dtype), expected, err_msg=key)
    assert tensors["tied"] is tensors["weight"]
    plain = {"epoch": 7, "best": 0.5, "name": "tiny", "none": None, "flags": [True, False]}
    assert content["plain"] == plain | {"size": (2, 3), "device": "cpu", "nested": {"1": {2: []}}}


def test_views_have_the_elements_that_their_strides_name(tmp_path):
    data = np.arange(24, dtype="<f8")
    views = {
        "transposed": ((3, 4), (1, 3), 0),
        "skipping": ((2, 2), (8, 2), 5),
        "repeated": ((4, 3), (0, 1), 2),
        "scalar": ((), (), 23),
        "empty": ((0, 5), (5, 1), 24),
    }
    where = storage(kind="torch.DoubleStorage", count=24)
    body = table(
        **{k: tensor(where, o, shape, strides) for k, (shape, strides, o) in views.items()}
    )
    content = pth.load(write(tmp_path / "m.pth", body, {"0": data.tobytes()}))
    for key, (shape, strides, offset) in views.items():
        expected = np.array(
            [data[offset + np.dot(index, strides).astype(int)] for index in np.ndindex(shape)]
        )
        assert content[key].shape == shape and content[key].dtype == np.float64
        np.testing.assert_array_equal(content[key].ravel(), expected.ravel())


def nested(depth: int) -> bytes:
    return b"]" * depth + b"a" * (depth - 1)


def laughs(depth: int) -> bytes:
    """A list of lists in which every level holds the one before twice: 2 ** depth in all."""
    levels = [text("x") + list_of(NONE) + put(0)]
    levels += [text("x") + list_of(get(i), get(i)) + put(i + 1) for i in range(depth)]
    return b"}(" + b"".join(levels) + b"u"


LONG = 2**62
HOSTILE = {
    "a call of the system": (call("posix.system", text("true")), r"global 'posix\.system'"),
    "eval": (table(a=call("builtins.eval", text("1"))), r"global 'builtins\.eval'"),
    "an import alone": (table(a=name("os.path")), r"global 'os\.path'"),
    "a model instead of a state": (
        table(a=name("torchvision.models.ResNet")),
        r"global 'torchvision\.models\.ResNet'.*state_dict\(\)",
    ),
    "torch's own loader": (
        call("torch.storage._load_from_bytes", text("x")),
        r"global 'torch\.storage\._load_from_bytes'",
    ),
    "a global by stack": (text("posix") + text("system") + b"\x93", r"global 'posix\.system'"),
    "a global that is no text": (number(1) + number(2) + b"\x93", "a global whose name"),
    "a dotted escape": (
        name("collections.OrderedDict.__init__.__globals__"),
        "global 'collections.OrderedDict.__init__",
    ),
    "a persistent object": (text("x") + b"Q", "persistent id"),
    "an object by its class": (name("collections.OrderedDict") + b")\x81", "no module of"),
    "a scripted class called": (call("__torch__.A"), r"a call of '__torch__\.A'"),
    "a scripted class left over": (table(a=name("__torch__.A")), "bare type"),
    "a module of arguments": (name("__torch__.A") + tuple_of(number(1)) + b"\x81", "no module of"),
    "a module of a list": (name("__torch__.A") + b")\x81" + list_of(NONE) + BUILD, "are no table"),
    "a module in itself": (
        name("__torch__.A") + b")\x81" + put(0) + table(a=get(0)) + BUILD,
        "nested without end",
    ),
    "items of a module": (name("__torch__.A") + b")\x81" + text("a") + NONE + b"s", "items set on"),
    "an instance": (b"(icollections\nOrderedDict\n", "opcode INST"),
    "an extension": (b"\x82\x01", "opcode EXT1"),
    "bytes": (table(a=b"C\x01x"), "opcode SHORT_BINBYTES"),
    "a set": (b"\x8f", "opcode EMPTY_SET"),
    "a text's call": (text("print") + tuple_of() + REDUCE, "a call of 'str'"),
    "a storage type's call": (call("torch.FloatStorage", number(10**9)), "a call of 'torch.Float"),
    "OrderedDict of something": (
        call("collections.OrderedDict", list_of(NONE)),
        "OrderedDict with other arguments",
    ),
    "attributes of a list": (table(a=b"]" + table(b=NONE) + BUILD), "attributes set on"),
    "items of a tuple": (tuple_of() + text("a") + NONE + b"s", "items set on"),
    "an odd number of items": (b"}(" + text("a") + b"u", "items set on"),
    "an item appended to a table": (b"}" + NONE + b"a", "items appended"),
    "a tuple as key": (b"}(" + tuple_of(number(1)) + NONE + b"u", "key of type tuple"),
    "a type left over": (table(a=name("torch.FloatStorage")), "bare type"),
    "a storage left over": (table(a=storage()), "bare type or storage"),
    "no table": (list_of(tensor()), "no table of named tensors"),
    "a storage that is not there": (table(a=tensor(storage("9"))), "lacks the bytes.*'9'"),
    "a storage of another folder": (
        table(a=tensor(storage("../data.pkl"))),
        r"lacks the bytes.*'\.\./data\.pkl'",
    ),
    "a storage that is shorter": (table(a=tensor(storage(count=7))), "24 bytes.* 7 x 4"),
    "a storage of negative length": (table(a=tensor(storage(count=-6))), "persistent id"),
    "a storage of any type": (table(a=tensor(storage(kind="torch.Tensor"))), "persistent id"),
    "a tensor over the end": (table(a=tensor(shape=(2, 4), strides=(3, 1))), "outside its storage"),
    "a tensor from the end": (table(a=tensor(offset=1)), "outside its storage"),
    "a stride over the end": (table(a=tensor(shape=(2,), strides=(6,))), "outside its storage"),
    "a negative stride": (table(a=tensor(offset=5, strides=(-3, -1))), "below 0"),
    "a negative size": (table(a=tensor(shape=(-2, -3))), "below 0"),
    "a negative offset": (table(a=tensor(offset=-1)), "below 0"),
    "an offset beyond 64 bits": (table(a=tensor(offset=2**70)), "out of range"),
    "sizes that overflow": (table(a=tensor(shape=(LONG, LONG))), "out of range"),
    "a size that is a table": (
        table(
            a=call(
                "torch._utils._rebuild_tensor_v2", storage(), NONE, tuple_of(b"}"), tuple_of(NONE)
            )
        ),
        "below 0 or out of range",
    ),
    "an expanded tensor": (
        table(a=tensor(shape=(1000, 1000), strides=(0, 0))),
        "expanded beyond its storage",
    ),
    "many axes": (table(a=tensor(shape=(1,) * 60, strides=(1,) * 60)), "60 axes"),
    "strides of other axes": (table(a=tensor(strides=(1,))), "2 axes and 1 strides"),
    "a shape that is a list": (
        table(
            a=call("torch._utils._rebuild_tensor_v2", storage(), number(0), list_of(), tuple_of())
        ),
        "shape is not a tuple",
    ),
    "a tensor of no storage": (table(a=tensor(where=text("x"))), "without storage"),
    "a conjugate view": (table(a=tensor(more=(table(conj=TRUE),))), "conjugate"),
    "a tensor of few arguments": (
        table(a=call("torch._utils._rebuild_tensor_v2", storage())),
        "other arguments than PyTorch's",
    ),
    "a parameter of a call": (
        table(a=call("torch._utils._rebuild_parameter", text("x"), TRUE, NONE)),
        "parameter that is not a tensor",
    ),
    "a tensor class of its own": (
        table(
            a=call(
                "torch._tensor._rebuild_from_type_v2",
                name("torch._utils._rebuild_tensor_v2"),
                name("torch.FloatStorage"),
                tuple_of(),
                NONE,
            )
        ),
        "class of its own",
    ),
    "a rebuilding of rebuildings": (
        table(
            a=call(
                "torch._tensor._rebuild_from_type_v2",
                name("torch._tensor._rebuild_from_type_v2"),
                name("torch.Tensor"),
                tuple_of(),
                NONE,
            )
        ),
        "class of its own",
    ),
    "a table in itself": (b"}" + put(0) + text("a") + get(0) + b"s", "without end"),
    "a list in itself": (table(a=b"]" + put(0) + get(0) + b"a"), "without end"),
    "deep lists": (table(a=nested(100_000)), "without end"),
    "deep tuples": (table(a=b")" + b"\x85" * 100_000), "without end"),
    "a billion laughs": (laughs(30), "without end"),
    "a memo that is not there": (table(a=get(3)), "KeyError"),
    "a stack that is empty": (b"s", "IndexError"),
    "a mark that is not there": (b"t", "IndexError"),
    "items from below the mark": (text("a") + b"(" + b"\x85", "IndexError"),
    "two values": (table() + table(), "not one value"),
    "an open mark": (b"(" + table(), "not one value"),
    "an unknown opcode": (b"\xff", "ValueError"),
    "text cut short": (b"X\xff\xff\xff\x7fabc", "ValueError"),
    "text that is no UTF-8": (b"X\x02\0\0\0\xff\xfe", "Unicode"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_one_line(tmp_path, case):
    body, expected = HOSTILE[case]
    line = refused(write(tmp_path / "m.pth", body))
    assert re.search(expected, line), line


def test_nothing_that_a_file_names_is_run(tmp_path):
    mark = tmp_path / "ran"
    for function in ("os.system", "posix.system", "subprocess.getoutput"):
        body = table(a=call(function, text(f"touch {mark}")))
        assert function in refused(write(tmp_path / "m.pth", body))
    assert not mark.exists()


def test_tensors_over_one_storage_cannot_multiply_the_file(tmp_path):
    data = np.zeros(4096, "<f4").tobytes()
    whole = tensor(storage(count=4096), shape=(4096,), strides=(1,))
    few = write(tmp_path / "few.pth", table(a=whole, b=whole), {"0": data})
    assert [array.nbytes for array in pth.load(few).values()] == [len(data)] * 2
    body = table(**{f"t{i}": whole for i in range(200)})
    assert "4 times the file's size" in refused(write(tmp_path / "m.pth", body, {"0": data}))


@pytest.mark.parametrize(
    "limit, expected",
    [
        ("MAX_ENTRIES", "zip entries, more than 2"),
        ("MAX_OPCODES", "more than 2 opcodes"),
        ("MAX_PICKLE_BYTES", "data.pkl of more than 2 bytes"),
    ],
)
def test_what_is_larger_than_any_checkpoint_is_refused(tmp_path, monkeypatch, limit, expected):
    path = write(tmp_path / "m.pth", table(a=tensor()))
    assert set(pth.load(path)) == {"a"}
    monkeypatch.setattr(pth, limit, 2)
    assert expected in refused(path)


def test_a_directory_longer_than_any_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "m.pth", table(a=tensor()))
    monkeypatch.setattr(pth._Reader, "limit", 64)
    assert "zip directory of" in refused(path)


def test_archives_that_torch_does_not_write_are_refused(tmp_path):
    good = write(tmp_path / "good.pth", table(a=tensor()))

    def change(edit, method=zipfile.ZIP_STORED) -> pathlib.Path:
        path = tmp_path / "m.pth"
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", method) as new:
            for info in old.infolist():
                new.writestr(info.filename, old.read(info))
            edit(new)
        return path

    def bomb(archive):
        archive.writestr("model/data/1", bytes(10**6))

    def overlap(archive):
        # Twenty directory entries over the bytes of one.
        info = archive.getinfo("model/data.pkl")
        for index in range(20):
            double = zipfile.ZipInfo(f"model/data/{index + 10}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(double, field, getattr(info, field))
            archive.filelist.append(double)

    def twice(archive):
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("model/data/0", b"")

    def second(archive):
        archive.writestr("other/data.pkl", b"N.")

    assert "compressed entry" in refused(change(bomb, zipfile.ZIP_DEFLATED))
    assert "they overlap" in refused(change(overlap))
    assert "two zip entries of one name" in refused(change(twice))
    assert "2 entries data.pkl" in refused(change(second))
    big = write(tmp_path / "big.pth", table(a=tensor()), byteorder=b"big")
    assert "big-endian" in refused(big)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "text")
    assert "0 entries data.pkl" in refused(tmp_path / "other.zip")


def test_other_files_are_one_line_with_a_remedy(tmp_path):
    path = tmp_path / "m.pth"
    with pytest.raises(UserError, match="no such file"):
        pth.load(path)
    line = refused(FIXTURES / "legacy.pth")
    assert "before version 1.6" in line and "torch.save(torch.load(" in line
    for content in (b"", b"PK", b"\x80\x02}q\x00.", b"{}", bytes(1000)):
        path.write_bytes(content)
        assert "not a zip file" in refused(path)


def test_a_file_cut_short_anywhere_is_one_line(tmp_path):
    whole, path = (FIXTURES / "plain.pth").read_bytes(), tmp_path / "m.pth"
    for length in range(4, len(whole) - 1, len(whole) // 40):
        path.write_bytes(whole[:length])
        refused(path)


def test_bytes_changed_anywhere_never_end_in_another_exception(tmp_path):
    whole, path = (FIXTURES / "plain.pth").read_bytes(), tmp_path / "m.pth"
    rng, failures = np.random.default_rng(0), 0
    with zipfile.ZipFile(FIXTURES / "plain.pth") as archive:
        pickle = whole.index(archive.read("plain/data.pkl"))
        size = archive.getinfo("plain/data.pkl").file_size
    for trial in range(300):
        changed = bytearray(whole)
        # The pickle, or the whole file with its directory.
        first, count = (pickle, size) if trial % 2 else (0, len(whole))
        for position in rng.integers(first, first + count, 3):
            changed[position] = rng.integers(256)
        path.write_bytes(changed)
        try:
            pth.load(path)
        except UserError:
            failures += 1
    assert failures > 100


def test_changed_pickles_with_a_right_checksum_never_end_in_another_exception(tmp_path):
    with zipfile.ZipFile(FIXTURES / "plain.pth") as archive:
        pickle = archive.read("plain/data.pkl")
        storages = {
            name.removeprefix("plain/data/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("plain/data/")
        }
    rng, failures = np.random.default_rng(1), 0
    for _ in range(300):
        changed = bytearray(pickle)
        for position in rng.integers(2, len(pickle), 2):
            changed[position] = rng.integers(256)
        path = write(tmp_path / "m.pth", b"", storages, **{"data.pkl": bytes(changed)})
        try:
            pth.load(path)
        except UserError as error:
            failures += "\n" not in str(error)
    assert failures > 100
