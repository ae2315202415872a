"""The cost of a compiled program: FLOPs, memory traffic and collectives, read from XLA's text.

XLA's own cost analysis counts the body of a loop once; here it counts once per iteration. Only matrix
products and convolutions count as FLOPs. As in XLA's count, padding and the zeros of dilation are not
work. The text is the program of one device after partitioning, so all figures are per device.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

COLLECTIVES = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "collective-permute",
)
_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128, "s4": 4, "u4": 4}
# Instructions that only rename values; they read and write no memory.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("while", "conditional", "call", "partition-id", "replica-id", "add-dependency"),
    *("opt-barrier", "domain"),
}
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s.*\{\s*$")
_NAME = re.compile(r"^\s+(ROOT\s+)?%?([\w.\-]+) = ")
_COMMENT = re.compile(r"/\*.*?\*/")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """The element type and dimensions of an array; `on_chip` says that it is in scratch memory and not in HBM."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        return self.size * _bits(self.dtype) / 8

    @property
    def hbm(self) -> float:
        """Bytes of HBM that a read or write of the array moves."""
        return 0.0 if self.on_chip else self.bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: its arrays (of a tuple, the parts in order), the names that it reads, and the rest of the text."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    rest: str

    @property
    def shape(self) -> Shape:
        return self.shapes[0]


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order; the last is the root."""

    instructions: Mapping[str, Instruction]
    root: Instruction

    def inputs(self, instruction: Instruction) -> list[Instruction]:
        return [self.instructions[name] for name in instruction.operands]

    def users(self, name: str) -> list[Instruction]:
        return [i for i in self.instructions.values() if name in i.operands]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled module: its computations by name, the entry's name, and how many chips run it."""

    computations: Mapping[str, Computation]
    entry: str
    partitions: int


@dataclasses.dataclass(frozen=True)
class Work:
    """The FLOPs and HBM bytes of one instruction, and how often a run executes it."""

    flops: float
    hbm: float
    times: int


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective: the bytes of the whole array, the number of chips that share it, and how often it runs."""

    kind: str
    bytes: float
    chips: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that a chip sends for one execution with a ring algorithm."""
        share = self.bytes * (self.chips - 1) / max(self.chips, 1)
        return {"all-reduce": 2 * share, "collective-permute": self.bytes}.get(self.kind, share)


@dataclasses.dataclass
class Cost:
    """The cost of one run of a program on one chip.

    `unknown_loops` counts loops whose number of iterations the text does not give; they count as one iteration.
    """

    work: list[Work]
    collectives: list[Collective]
    unknown_loops: int = 0

    @property
    def flops(self) -> float:
        return sum(w.flops * w.times for w in self.work)

    @property
    def hbm(self) -> float:
        return sum(w.hbm * w.times for w in self.work)

    @property
    def sent(self) -> float:
        return sum(c.sent * c.times for c in self.collectives)

    def by_kind(self) -> dict[str, tuple[int, float, float]]:
        """{kind of collective: (how many, bytes of their arrays, bytes that a chip sends)}."""
        found: dict[str, tuple[int, float, float]] = {}
        for c in self.collectives:
            count, size, sent = found.get(c.kind, (0, 0.0, 0.0))
            found[c.kind] = (count + c.times, size + c.bytes * c.times, sent + c.sent * c.times)
        return found


def read(text: str) -> Program:
    """The program that `compiled.as_text()` prints."""
    computations, entry, name = {}, "", ""
    instructions: dict[str, Instruction] = {}
    root = ""
    for line in _COMMENT.sub("", text).splitlines():
        head = _HEAD.match(line)
        if head and not line.startswith("HloModule"):
            name, instructions, root = head[2], {}, ""
            entry = name if head[1] else entry
        elif line.startswith("}"):
            computations[name] = Computation(instructions, instructions[root])
        elif match := _NAME.match(line):
            instruction = _instruction(match[2], line[match.end() :])
            instructions[instruction.name] = instruction
            root = instruction.name if match[1] or not root else root
    partitions = re.search(r"num_partitions=(\d+)", text)
    return Program(computations, entry, int(partitions[1]) if partitions else 1)


def _instruction(name: str, text: str) -> Instruction:
    shape, text = _balanced(text) if text.startswith("(") else text.split(" ", 1)
    opcode, text = text.strip().split("(", 1)
    inside, rest = _balanced(f"({text}")
    operands = tuple(part.split()[-1].lstrip("%") for part in _parts(inside) if part.strip())
    if opcode in ("constant", "parameter"):
        # The brackets hold a value.
        operands, rest = (), f"{opcode}={inside}{rest}"
    return Instruction(name, opcode, _shapes(shape), operands, rest)


def _balanced(text: str) -> tuple[str, str]:
    """(the content of the bracket at the start of `text`, the text after it)."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[1:index], text[index + 1 :]
    raise ValueError(f"no closing bracket in {text[:80]!r}")


def _parts(text: str) -> Iterator[str]:
    """The parts between commas that are not inside brackets."""
    depth, first = 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            yield text[first:index]
            first = index + 1
    yield text[first:]


def _shapes(text: str) -> tuple[Shape, ...]:
    shapes = []
    for dtype, dims, layout in _SHAPE.findall(text):
        sizes = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
        # S(n) names a memory space; HBM is space 0, which the text leaves out.
        shapes.append(Shape(dtype, sizes, "S(" in layout and "S(5)" not in layout))
    return tuple(shapes) or (Shape("token", ()),)


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 0


def cost(program: Program) -> Cost:
    """FLOPs, HBM traffic and collectives of one run, per chip."""
    found = Cost([], [])
    _walk(program, program.computations[program.entry], 1, found)
    return found


def _walk(program: Program, computation: Computation, times: int, found: Cost) -> None:
    for instruction in computation.instructions.values():
        opcode = instruction.opcode
        if opcode == "while":
            turns = trip_count(program, instruction)
            found.unknown_loops += turns is None
            body = _named(instruction, "body")
            _walk(
                program, program.computations[body], times * (1 if turns is None else turns), found
            )
        elif opcode == "conditional":
            _dearest(program, instruction, times, found)
        elif opcode in ("call", "async-start"):
            for name in _CALLED.findall(instruction.rest):
                _walk(program, program.computations[name], times, found)
        else:
            _one(program, computation, instruction, times, found)


def _one(program, computation, instruction, times, found) -> None:
    collective = _collective(program, computation, instruction)
    if collective:
        found.collectives.append(dataclasses.replace(collective, times=times))
    flops = 0.0
    if instruction.opcode == "fusion":
        inside = Cost([], [])
        for name in _CALLED.findall(instruction.rest):
            _walk(program, program.computations[name], 1, inside)
        flops = inside.flops
        if not collective:
            found.collectives += [
                dataclasses.replace(c, times=c.times * times) for c in inside.collectives
            ]
    elif instruction.opcode in ("dot", "convolution"):
        flops = product_flops(computation, instruction)
    found.work.append(Work(flops, hbm_bytes(program, computation, instruction), times))


def _dearest(program, instruction, times, found) -> None:
    """Count the branch of a conditional with the most FLOPs, because only one branch runs."""
    listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
    names = listed[1].split(",") if listed else []
    names += re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", instruction.rest)
    branches = []
    for name in names:
        branch = Cost([], [])
        _walk(program, program.computations[name.strip().lstrip("%")], times, branch)
        branches.append(branch)
    if branches:
        dearest = max(branches, key=lambda branch: branch.flops)
        found.work += dearest.work
        found.collectives += dearest.collectives
        found.unknown_loops += dearest.unknown_loops


def trip_count(program: Program, loop: Instruction) -> int | None:
    """How often a loop's body runs: XLA's own note, or else the bound in its condition; None if unknown."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    condition = program.computations[_named(loop, "condition")]
    found = _comparison(program, condition)
    if found is None:
        return None
    where, compare = found
    direction = _search(r"direction=(\w+)", compare)[1]
    left, right = (_constant(i) for i in where.inputs(compare))
    if right is not None and direction in ("LT", "LE", "NE"):
        return right + (direction == "LE")
    if left is not None and direction in ("GT", "GE", "NE"):
        return left + (direction == "GE")
    return None


def _comparison(program: Program, condition: Computation) -> tuple[Computation, Instruction] | None:
    root = condition.root
    if root.opcode == "fusion":
        inner = _called(program, root)
        # A constant outside the fusion is a parameter inside it, so look up the argument.
        instructions = dict(inner.instructions)
        for name, i in inner.instructions.items():
            if i.opcode == "parameter":
                given = condition.instructions[root.operands[_index(i)]]
                instructions[name] = given if given.opcode == "constant" else i
        condition, root = Computation(instructions, inner.root), inner.root
    return (condition, root) if root.opcode == "compare" else None


def _constant(instruction: Instruction) -> int | None:
    value = re.match(r"constant=(-?\d+)", instruction.rest)
    return int(value[1]) if value else None


def _index(parameter: Instruction) -> int:
    return int(_search(r"^parameter=(\d+)", parameter)[1])


def _named(instruction: Instruction, field: str) -> str:
    return _search(rf"{field}=%?([\w.\-]+)", instruction)[1]


def _called(program: Program, fusion: Instruction) -> Computation:
    return program.computations[_search(_CALLED, fusion)[1]]


def _search(pattern: str | re.Pattern[str], instruction: Instruction) -> re.Match[str]:
    """What every instruction of the kind has. Raises ValueError for one that is written otherwise."""
    found = re.search(pattern, instruction.rest)
    if found is None:
        raise ValueError(f"{instruction.name}: {instruction.rest}: a form that is not known")
    return found


def product_flops(computation: Computation, product: Instruction) -> float:
    """The FLOPs of a dot or a convolution: two per multiplication, without multiplications by padding."""
    if product.opcode == "dot":
        left = computation.inputs(product)[0].shape
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", product.rest)
        axes = [int(d) for d in contracted[1].split(",") if d] if contracted else []
        return 2.0 * product.shape.size * math.prod(left.dims[a] for a in axes)
    return _convolution_flops(computation, product)


def _convolution_flops(computation: Computation, convolution: Instruction) -> float:
    left, right = (i.shape for i in computation.inputs(convolution)[:2])
    labels = _search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution)
    inputs, kernel, output = labels.groups()
    out, window = convolution.shape, _window(convolution.rest)
    size = out.dims[output.index("b")] * out.dims[output.index("f")]
    size *= right.dims[kernel.index("i")]
    for axis in (letter for letter in output if letter.isdigit()):
        size *= _positions(
            left.dims[inputs.index(axis)],
            right.dims[kernel.index(axis)],
            out.dims[output.index(axis)],
            {name: values[int(axis)] for name, values in window.items()},
        )
    return 2.0 * size


def _window(rest: str) -> dict[str, list]:
    """A convolution's window: {field: one value per spatial axis}."""
    text = re.search(r"window=\{([^}]*)\}", rest)
    fields = dict(part.split("=") for part in text[1].split()) if text else {}
    window: dict[str, list] = {}
    axes = len(fields.get("size", "").split("x")) if fields.get("size") else 0
    for name, default in (("stride", 1), ("lhs_dilate", 1), ("rhs_dilate", 1)):
        values = fields[name].split("x") if name in fields else [default] * axes
        window[name] = [int(v) for v in values]
    pads = fields["pad"].split("x") if "pad" in fields else ["0_0"] * axes
    window["low"] = [int(pad.split("_")[0]) for pad in pads]
    return window


def _positions(size: int, kernel: int, out: int, window: Mapping[str, int]) -> int:
    """The number of pairs of output and kernel positions that meet an input element, along one axis."""
    stride, low = window["stride"], window["low"]
    dilate, step = window["lhs_dilate"], window["rhs_dilate"]
    last = (size - 1) * dilate
    found = 0
    for k in range(kernel):
        first = k * step - low
        if dilate == 1:
            # first + o * stride within [0, last]
            lowest = max(0, (stride - 1 - first) // stride)
            highest = min(out - 1, (last - first) // stride)
            found += max(0, highest - lowest + 1)
        else:
            places = (first + o * stride for o in range(out))
            found += sum(0 <= place <= last and place % dilate == 0 for place in places)
    return found


def _collective(
    program: Program, computation: Computation, instruction: Instruction
) -> Collective | None:
    kind = instruction.opcode.removesuffix("-start")
    inputs: Sequence[Instruction] = ()
    if kind in COLLECTIVES:
        inputs, described = computation.inputs(instruction), instruction
    elif instruction.opcode == "fusion":
        # On TPUs a reduce-scatter is an all-reduce, fused with the slice that a chip keeps.
        inner = _called(program, instruction)
        reduced = [i for i in inner.instructions.values() if i.opcode == "all-reduce"]
        if len(reduced) != 1 or not _only_sliced(inner, reduced[0]):
            return None
        kind, described = "reduce-scatter", reduced[0]
        inputs = inner.inputs(reduced[0])
    else:
        return None
    chips = _group(described.rest, program.partitions)
    size = sum(shape.bytes for i in inputs for shape in i.shapes)
    return Collective(kind, size * (chips if kind == "all-gather" else 1), chips, 1)


def _only_sliced(computation: Computation, reduced: Instruction) -> bool:
    users = computation.users(reduced.name)
    while len(users) == 1 and users[0].opcode in ("bitcast", "reshape", "copy", "convert"):
        users = computation.users(users[0].name)
    return bool(users) and all(user.opcode == "dynamic-slice" for user in users)


def _group(rest: str, partitions: int) -> int:
    """The number of chips in a group; empty braces mean all chips.

    The text has one of three forms: {{0,1},{2,3}}; [groups,size]<=[...]; or the mesh axes that a group spans, possibly
    in part: mesh['a'=64,'b'=4] {'b'}, mesh['a'=8], device_ids=(...) {'a':(2)4}.
    """
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if listed:
        return len(listed[1].split(","))
    meshed = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest)
    if meshed:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
        spanned = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", meshed[2])
        return math.prod(int(part or sizes[axis]) for axis, part in spanned)
    counted = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest)
    if counted:
        return int(counted[2])
    other = re.search(r"replica_groups=(?!\{\})\S+", rest)
    if other:
        raise ValueError(f"{other[0].replace('=', ': ', 1)}: a form of groups that is not known")
    return partitions


def hbm_bytes(program: Program, computation: Computation, instruction: Instruction) -> float:
    """Bytes that an instruction reads from and writes to HBM; slices and in-place updates count by their size."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0.0
    inputs = computation.inputs(instruction)
    if opcode == "fusion":
        inner = _called(program, instruction)
        return _fused_bytes(program, inner, inputs, instruction)
    if opcode in ("dynamic-slice", "gather"):
        return _own(instruction) + _sliced(inputs[0], instruction)
    if opcode == "dynamic-update-slice":
        return _sliced(inputs[1], inputs[1]) + _sliced(instruction, inputs[1])
    reads = sum(shape.hbm for i in inputs for shape in i.shapes)
    if opcode == "copy-start":
        return reads + instruction.shapes[0].hbm
    if opcode.removesuffix("-start") in COLLECTIVES and opcode.endswith("-start"):
        # The result repeats the operands beside the new arrays.
        return max(_own(instruction), reads)
    return reads + _own(instruction)


def _own(instruction: Instruction) -> float:
    return sum(shape.hbm for shape in instruction.shapes)


def _sliced(whole: Instruction, part: Instruction) -> float:
    """Bytes of `part`, if it is a slice of a `whole` in HBM."""
    return 0.0 if whole.shape.on_chip else part.shape.bytes


def _fused_bytes(
    program: Program, inner: Computation, inputs: Sequence[Instruction], fusion: Instruction
) -> float:
    total = 0.0
    for parameter in inner.instructions.values():
        if parameter.opcode == "parameter":
            given = inputs[_index(parameter)]
            whole = sum(shape.hbm for shape in given.shapes)
            total += min(whole, _read_of(program, inner, parameter)) if whole else 0.0
    roots = inner.inputs(inner.root) if inner.root.opcode == "tuple" else [inner.root]
    if len(roots) != len(fusion.shapes):
        return total + _own(fusion)
    for root, shape in zip(roots, fusion.shapes, strict=True):
        update = _behind_bitcasts(inner, root)
        if update.opcode == "dynamic-update-slice" and not shape.on_chip:
            total += inner.inputs(update)[1].shape.bytes
        else:
            total += shape.hbm
    return total


def _behind_bitcasts(computation: Computation, instruction: Instruction) -> Instruction:
    while instruction.opcode == "bitcast":
        instruction = computation.inputs(instruction)[0]
    return instruction


def _read_of(program: Program, computation: Computation, value: Instruction) -> float:
    """Bytes of `value` that its users in a fused computation read; 0 for an array that is updated in place."""
    total = 0.0
    for user in computation.users(value.name):
        first = user.operands[0] == value.name
        if user.opcode in ("dynamic-slice", "gather") and first:
            total += user.shape.bytes
        elif user.opcode == "dynamic-update-slice" and first:
            continue
        elif user.opcode == "bitcast":
            total += _read_of(program, computation, user)
        elif user.opcode == "fusion":
            inner = _called(program, user)
            place = user.operands.index(value.name)
            for parameter in inner.instructions.values():
                if parameter.opcode == "parameter" and _index(parameter) == place:
                    total += _read_of(program, inner, parameter)
        else:
            return value.shape.bytes
    return total
