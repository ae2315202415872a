"""The product of a finished stage: the files in its folder, and how a later stage reads them."""

import functools
import hashlib
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from intern_jax.core import strict_json, tree
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json
from intern_jax.core.layout import Layout, StageFiles
from intern_jax.processes import hosts
from intern_jax.train.stage import Stage
from intern_jax.version import __version__
from intern_jax.weights import safetensors


class Product:
    """A stage's folder and key and, once it is finished, the arrays that later stages start from or read."""

    def __init__(self, name: str, seed: int, key: str, layout: Layout, spec: Mapping[str, Any]):
        self.name, self.seed, self.key, self.spec = name, seed, key, dict(spec)
        self._layout, self.files = layout, layout.stage(seed, name, key)

    @property
    def folder(self) -> pathlib.Path:
        """The folder of all its files."""
        return self.files.folder

    @property
    def variables(self) -> dict[str, np.ndarray]:
        """Flat arrays: "params/...", and the parts of other collections that the stage exports."""
        return tree.names(safetensors.load(self.files.model))

    @property
    def path(self) -> str:
        """The folder of the product, relative to the workdir."""
        return self._layout.below(self.folder)

    @functools.cached_property
    def sha256(self) -> str:
        """The digest of the file of arrays."""
        return digest_of(self.files.model)

    def summary(self) -> dict[str, Any]:
        """The stage's entry in results.json."""
        done = {name: v for name, v in read_done(self.files).items() if name != "sha256"}
        return {
            "name": self.name,
            "seed": self.seed,
            "digest": self.key,
            "history": self._layout.below(self.files.metrics),
            **done,
        }

    def write(self, stage: Stage, state: Any, facts: Mapping[str, Any]) -> None:
        """Write the model of a trained state and `facts`. All processes call it; process 0 writes."""
        best = state.best
        exported = tree.partition({n: c for n, c in best.items() if n != "params"}, stage.exports)[
            0
        ]
        arrays = hosts.to_host({"params": best["params"], **exported})
        if not hosts.is_main():
            return
        safetensors.save(self.files.model, arrays, {"version": __version__})
        # The cached digest may be that of a file that was here before.
        self.__dict__.pop("sha256", None)
        write_json(self.files.done, {**facts, "sha256": self.sha256})


def digest_of(path: pathlib.Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_done(files: StageFiles) -> dict[str, Any]:
    """The content of done.json; {} if there is none, or none that can be read as one."""
    try:
        done = strict_json.parse(files.done.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    whole = isinstance(done, dict) and isinstance(done.get("steps"), int)
    return done if whole else {}


def wrong(files: StageFiles) -> str:
    """What is wrong with the files of a finished stage; "" if they are what was written.

    Those of a version that wrote no digest are believed if their header can be read.
    """
    done = read_done(files)
    if not done:
        return f"{files.done.name} is not what was written"
    if not files.model.is_file():
        return f"{files.model.name} is missing"
    if "sha256" in done:
        same = digest_of(files.model) == done["sha256"]
        return "" if same else f"{files.model.name} is not what was written"
    try:
        safetensors.read_header(files.model)
    except UserError:
        return f"{files.model.name} is not what was written"
    return ""


def taken(bound: Mapping[str, Product], stage: Stage) -> dict[str, np.ndarray] | None:
    """Arrays of the stages bound to roles, as "ROLE/COLLECTION/NAME", for the loop's graft; None if no role is bound.

    Arrays of frozen roles become the stage's `frozen`, {role: nested arrays}. They are returned too only if a graft
    rule names the role. The stage's blends are returned as "BLEND/COLLECTION/NAME". All processes call it; process 0
    reads the files.
    """
    arrays = hosts.share(
        lambda: {
            f"{role}/{name}": value
            for role, product in bound.items()
            for name, value in product.variables.items()
        }
    )
    frozen = [role for role in bound if role in stage.roles and stage.roles[role].frozen]
    nested = tree.unflatten(arrays)
    if frozen:
        stage.frozen = {**stage.frozen, **{role: nested[role] for role in frozen}}
    named = {template.partition("/")[0] for _, template in stage.graft}
    # If a rule takes the role from a group of its regex, it may be any role.
    any_role = any(name.startswith("\\") for name in named)
    left_out = [role for role in frozen if role not in named and not any_role]
    started = {n: v for n, v in arrays.items() if n.partition("/")[0] not in left_out}
    started |= {name: _sum(parts) for name, parts in blended(arrays, stage).items()}
    return started or None


def blended(arrays: Mapping[str, Any], stage: Stage) -> dict[str, list[tuple[float, Any]]]:
    """{"BLEND/COLLECTION/NAME": [(weight, array)]} of a stage's blends, for arrays by "ROLE/COLLECTION/NAME".

    Arrays may be abstract. UserError if its roles differ in the names or shapes of what it takes.
    """
    found: dict[str, list[tuple[float, Any]]] = {}
    for name, blend in ((name, one) for name, blends in stage.blends.items() for one in blends):
        held = {role: _held(arrays, role, blend.names) for role in blend.weights}
        for array in sorted(set().union(*held.values())):
            _check_alike(stage.name, array, {role: mine.get(array) for role, mine in held.items()})
            parts = [(weight, held[role][array]) for role, weight in blend.weights.items()]
            found[f"{name}/{array}"] = parts
    return found


def _check_alike(stage: str, name: str, arrays: Mapping[str, Any]) -> None:
    """Refuse an array that a role lacks, or that differs in shape between roles."""
    first, like = next((role, array) for role, array in arrays.items() if array is not None)
    for role, array in arrays.items():
        if array is not None and tuple(array.shape) == tuple(like.shape):
            continue
        if array is None:
            said = f"has no {name}, and '{first}' has"
        else:
            said = f"{name} is {tuple(array.shape)}, that of '{first}' {tuple(like.shape)}"
        raise UserError(f"{stage}.start.{role}: {said}; bind stages of one backbone")


def _held(arrays: Mapping[str, Any], role: str, names: str) -> dict[str, Any]:
    """The arrays of a role that the regex matches, as COLLECTION/NAME."""
    start = f"{role}/"
    mine = {n.removeprefix(start): array for n, array in arrays.items() if n.startswith(start)}
    return {name: array for name, array in mine.items() if re.fullmatch(names, name)}


def _sum(parts: list[tuple[float, np.ndarray]]) -> np.ndarray:
    """The weighted sum, in float64 and then in the dtype of the first array."""
    total = np.zeros(parts[0][1].shape)
    for weight, array in parts:
        total += weight * array.astype(np.float64)
    return total.astype(parts[0][1].dtype)


def noted(bound: Mapping[str, Product]) -> dict[str, dict[str, str]]:
    """A checkpoint's note on its roles: stage, folder relative to the workdir, and digest of the arrays.

    All processes get what process 0 finds.
    """
    found = None
    if hosts.is_main():
        found = {
            role: {"stage": product.name, "path": product.path, "sha256": product.sha256}
            for role, product in bound.items()
        }
    return hosts.broadcast_json(found, hosts.ALONE_SECONDS)
