"""Readouts: the vector per picture that a linear classifier reads of a frozen backbone.

A readout is written FORM[:BRANCH+BRANCH...][@MAP+MAP...], such as "layers" or "grids:cls+dense@layer4".

| form | what |
|---|---|
| pooled | the network's own feature vector |
| layers | the mean over positions of each map layer1..layer4, and "pooled" |
| grids | the same, and the means of 2 x 2 cells of the two coarsest maps that have as many positions |

Without branches, "pooled" is of the task's own one. The other forms are then of all, and the task's own comes first.
A branch is written as a network's call takes it (models/backbone.py: route): a branch, a task family, or BRANCH/SET for
a BatchNorm set of another name. "@" says which maps are read, and "pooled" may be among them. Parts are joined in the
order in which branches, and then maps, are written.

Stage features with a linear classifier come near full fine-tuning at a hundredth of its cost (Head2Toe, arXiv
2201.03529). Legend: B batch, H height, W width, C channels, D features.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax import families
from intern_jax.core.config import UserError, did_you_mean
from intern_jax.families.family import BRANCHES
from intern_jax.models import backbone
from intern_jax.models.backbone import LAYERS

FORMAT = 1  # raised when the same network and picture give other values
CELLS = 2  # per side of a coarse grid
GRIDS = 2  # maps that grids are read of
MAPS = (*LAYERS, "pooled")  # what "@" may name
BRANCH = re.compile(r"\w+(/[\w-]+)?")
FORM = "FORM:BRANCH+BRANCH@MAP+MAP, such as layers:cls+dense@layer4+pooled"

Outputs = Mapping[str, jax.Array]  # of one branch by name


# --- values ---------------------------------------------------------------------------------------


def layers(branches: Sequence[Outputs], maps: Sequence[str] = ()) -> jax.Array:
    """[B,D] float32 of the outputs of branches: the means of `maps` (none: all of them), and "pooled" as it is."""
    return _joined(
        outputs[name] if name == "pooled" else _mean(outputs[name])
        for outputs in branches
        for name in (maps or (*_there(outputs), "pooled"))
    )


def grids(branches: Sequence[Outputs], maps: Sequence[str] = ()) -> jax.Array:
    """[B,D] float32: `layers`, then the cells of each branch's coarse maps."""
    cells = []
    for outputs in branches:
        read = [outputs[name] for name in _there(outputs) if not maps or name in maps]
        large = [x for x in read if min(x.shape[1:3]) >= CELLS]
        cells += [_cells(x) for x in large[-GRIDS:]]
    return _joined([layers(branches, maps), *cells])


READOUTS: dict[str, Callable[..., jax.Array]] = {"layers": layers, "grids": grids}
NAMES = ("pooled", *READOUTS)


# --- names ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Readout:
    """A readout's name in parts; no branches and no maps where it does not name them."""

    form: str
    branches: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

    def of(self, branches: Sequence[Outputs]) -> jax.Array:
        """[B,D] float32 of the outputs of branches; UserError for a map that is not among them."""
        if self.form == "pooled":
            return _joined(outputs["pooled"] for outputs in branches)
        for name in self.maps:
            for outputs in branches:
                if name not in outputs:
                    near = did_you_mean(name, list(outputs))
                    raise UserError(f"the network gives no {name!r}; {near}")
        return READOUTS[self.form](branches, self.maps)


def parse(text: str) -> Readout:
    """The readout of that name. UserError, without the name of a field, for a form or map that does not exist."""
    text = str(text)
    named, at, read = text.partition("@")
    form, colon, branches = named.partition(":")
    if form not in NAMES:
        raise UserError(f"no {form!r}; {did_you_mean(form, list(NAMES))}")
    found = Readout(
        form,
        tuple(branches.split("+")) if colon else (),
        tuple(read.split("+")) if at else (),
    )
    for kind, names in (("branch", found.branches), ("map", found.maps)):
        if "" in names:
            raise UserError(f"{text!r} has a {kind} without a name; write {FORM}")
        if len(set(names)) < len(names):
            raise UserError(f"{text!r} names a {kind} twice; name each once")
    for name in found.branches:
        if not BRANCH.fullmatch(name):
            raise UserError(
                f"{text!r}: {name!r} is no name of a branch; write BRANCH or BRANCH/SET"
            )
    for name in found.maps:
        if name not in MAPS:
            raise UserError(f"{text!r} reads no map {name!r}; {did_you_mean(name, list(MAPS))}")
    if form == "pooled" and found.maps:
        raise UserError(f"{text!r}: pooled reads no map; write layers@{read}")
    if form == "grids" and found.maps == ("pooled",):
        raise UserError(f"{text!r}: grids are of maps; name one, such as layer4")
    return found


def is_one(name: str) -> bool:
    """Whether the name of an output is that of a readout; "pooled" alone is the network's own output."""
    return name in READOUTS or ":" in name or "@" in name


# --- branches -------------------------------------------------------------------------------------


def reached(network: Any) -> dict[str, str]:
    """{branch: the `task` of a call whose main branch it is} of a network's branches; none for a network of one."""
    serves, sets = getattr(network, "serves", None) or {}, getattr(network, "sets", None) or ()
    found = {}
    for name in getattr(network, "branches", ()):
        for task in (name, *serves, *families.names(), *(f"{name}/{one}" for one in sets)):
            try:
                routed = backbone.route(network, task)
            except UserError:
                continue
            if routed.partition("/")[0] == name:
                found[name] = routed
                break
    return found


def main_route(network: Any, task: str, names: Iterable[str]) -> str:
    """The `task` of the network's call for the outputs and readouts `names`.

    "" where all of them name their branches and the task has none; UserError where it has none and one is needed.
    """
    try:
        return backbone.route(network, task)
    except UserError:
        names = list(names)
        if names and all(is_one(name) and parse(name).branches for name in names):
            return ""
        raise


def check(network: Any, names: Iterable[str], task: str) -> str:
    """`main_route`, after a check that the network has the branches which readouts name; nothing is computed."""
    names = list(names)
    branch = main_route(network, task, names)
    for name in filter(is_one, names):
        _calls(network, name, branch)
    return branch


def _calls(network: Any, name: str, branch: str) -> list[str]:
    """The `task` of each of a network's calls that a readout needs."""
    read = parse(name)
    if read.branches:
        try:
            calls = [_call(network, one, branch) for one in read.branches]
        except UserError as error:
            raise UserError(f"{name!r}: {error}") from None
        if len(set(calls)) < len(calls):
            raise UserError(f"{name!r}: two of its names are of one branch; leave one out")
        return calls
    if read.form == "pooled":
        return [branch]
    own = branch.partition("/")[0]
    return [branch, *(call for one, call in reached(network).items() if one != own)]


def _call(network: Any, name: str, branch: str) -> str:
    if getattr(network, "branches", ()) or getattr(network, "sets", ()):
        return backbone.route(network, name)
    if name not in (*BRANCHES, *families.names()):
        raise UserError(f"no branch {name!r}; the network has one alone, leave its name out")
    return branch


# --- computing ------------------------------------------------------------------------------------


def outputs(
    network: Any, variables: Any, images: jax.Array, branch: str, names: Iterable[str]
) -> dict[str, jax.Array]:
    """What `names` ask for, of normalised images [B,H,W,3]: readouts, and all outputs of `branch` if it runs.

    Branches that no name needs do not run. An output of the network comes before a readout of its name.
    """
    names = list(names)

    @functools.cache
    def run(call: str) -> Outputs:
        return network.apply(variables, images, train=False, task=call)

    made, needs = {}, {name: _calls(network, name, branch) for name in names if is_one(name)}
    for name, calls in needs.items():
        made[name] = parse(name).of([run(call) for call in calls])
    if len(needs) < len(names) or not names or any(branch in calls for calls in needs.values()):
        made |= run(branch)
    return made


def _there(outputs: Outputs) -> list[str]:
    return [name for name in LAYERS if name in outputs]


def _mean(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32).mean(axis=(1, 2))


def _cells(x: jax.Array) -> jax.Array:
    """The means of CELLS x CELLS cells of a map [B,H,W,C]; neighbours share a row where the side is odd."""
    rows, columns = (jnp.asarray(_shares(side)) for side in x.shape[1:3])
    precision = jax.lax.Precision.HIGHEST
    wide = x.astype(jnp.float32)
    return jnp.einsum("bhwc,ih,jw->bijc", wide, rows, columns, precision=precision)


def _shares(side: int) -> np.ndarray:
    """The share of each position in each cell [CELLS, side]; cells as in PyTorch's adaptive pooling."""
    made = np.zeros((CELLS, side), np.float32)
    for i in range(CELLS):
        first, last = i * side // CELLS, -(-(i + 1) * side // CELLS)
        made[i, first:last] = 1 / (last - first)
    return made


def _joined(parts) -> jax.Array:
    flat = [part.reshape(part.shape[0], -1).astype(jnp.float32) for part in parts]
    return jnp.concatenate(flat, axis=-1)
