"""Where the time of a compiled program goes: the share of each part, from a trace of JAX's profiler on a CPU.

XLA:CPU's trace has one event per instruction that ran. The compiled text says from which line of the network an
instruction comes: `jit(step)/transpose(jvp(TaskModel))/backbone/layer1_0/...`. A part is a pattern over these names.
Time is that of the instruction alone, without those that it calls, added over threads.
"""

import collections
import itertools
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.\-]+) \(")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%([\w.\-]+)")
_NAME = re.compile(r'op_name="([^"]*)"')
_OPERAND = re.compile(r"%([\w.\-]+)")

Parts = Sequence[
    tuple[str, str]
]  # (what a part is called, a pattern over names), the first that matches


def seconds(call: Callable[[], Any], program: str, parts: Parts) -> dict[str, float]:
    """Seconds of each of `parts`, and of "other", while `call` runs the compiled `program` (its text)."""
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder)
        call()
        jax.profiler.stop_trace()
        times = instruction_times(pathlib.Path(folder))
    names, total = origins(program), dict.fromkeys([name for name, _ in parts] + ["other"], 0.0)
    for instruction, spent in times.items():
        total[part_of(names.get(instruction, ""), parts)] += spent
    return total


def part_of(origin: str, parts: Parts) -> str:
    """The first part whose pattern is found in a name."""
    return next((name for name, pattern in parts if re.search(pattern, origin)), "other")


def instruction_times(folder: pathlib.Path) -> dict[str, float]:
    """Seconds per instruction in a profile below `folder`, without those of the instructions inside it."""
    (file,) = folder.glob("**/*.xplane.pb")
    total: dict[str, float] = collections.defaultdict(float)
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            events = [event for event in line.events if "hlo_op" in dict(event.stats)]
            spans = [(event.start_ns, event.duration_ns, event.name) for event in events]
            for name, spent in own_times(spans):
                total[name] += spent / 1e9
    return total


def own_times(spans: Iterable[tuple[float, float, str]]) -> list[tuple[str, float]]:
    """(name, time) of nested spans (start, length, name) of one thread, each less what lies inside it."""
    made: list[tuple[str, float]] = []
    around: list[tuple[float, str]] = []
    for start, length, name in sorted(spans, key=lambda span: (span[0], -span[1])):
        while around and around[-1][0] <= start:
            around.pop()
        if around:
            made.append((around[-1][1], -length))
        made.append((name, length))
        around.append((start + length, name))
    return made


def origins(program: str) -> dict[str, str]:
    """Per instruction of a compiled program's text, the name of what it comes from, "" where nothing says it.

    A fusion without a name has that of its last named instruction. The compiler drops the names of some gradients of
    kernels: those have the name of the nearest instruction that reads them, or else that they read.
    """
    names, called, operands, inside = _read(program)
    for one, computations in called.items():
        for computation in computations:
            found = [names[i] for i in inside.get(computation, ()) if _says(names[i])]
            names[one] = names[one] or (found[-1] if found else "")
    readers: dict[str, list[str]] = collections.defaultdict(list)
    for one, read in operands.items():
        for other in read:
            readers[other].append(one)
    known = dict(names)
    for one in [name for name, origin in names.items() if not origin]:
        known[one] = _nearest(one, readers, names) or _nearest(one, operands, names)
    return known


def _says(name: str) -> bool:
    return "/" in name


def _read(program: str) -> tuple[dict[str, str], dict[str, list[str]], dict, dict]:
    """Of each instruction its name, the computations that it calls and its operands; and those inside each."""
    names, called, operands = {}, {}, {}
    inside: dict[str, list[str]] = collections.defaultdict(list)
    here = ""
    for line in program.splitlines():
        if found := _COMPUTATION.match(line):
            here = found[1]
        elif found := _INSTRUCTION.match(line):
            name, text = found[1], found[2]
            said = _NAME.search(text)
            names[name] = said[1] if said and _says(said[1]) else ""
            called[name] = _CALLED.findall(text)
            operands[name] = _OPERAND.findall(text.split("), ")[0])
            inside[here].append(name)
    return names, called, operands, inside


def _nearest(start: str, beside: Mapping[str, list[str]], names: Mapping[str, str]) -> str:
    """The name of the network's instruction that the fewest steps lead to; at most six steps."""
    seen, ring = {start}, [start]
    for _ in range(6):
        ring = [i for i in itertools.chain(*(beside.get(j, ()) for j in ring)) if i not in seen]
        seen |= {*ring}
        for one in ring:
            if "jvp(" in names.get(one, ""):
                return names[one]
    return ""
