"""The key of a stage is a digest of all that its arrays depend on, as plain data.

A key covers the settings that matter (marked in the schema), the backbone and the seed. It also covers the keys of the
stages bound to its roles, the format numbers of the code, and the fingerprints of the data. It does not cover the
version of the package: a change of what a stage or transform computes must raise its format number. Nor does it cover
how often a run logs and saves, although a roll-back depends on that.
"""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from intern_jax.core import config as config_lib
from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.core.layout import StageFiles
from intern_jax.data.batches import mixture
from intern_jax.data.batches.mixture import SPEC_FIELDS, group_sources
from intern_jax.data.batches.shuffle import MAX_TABLE
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.models import zoo
from intern_jax.pipeline import products
from intern_jax.pipeline import settings as settings_lib
from intern_jax.processes import hosts
from intern_jax.train import settings as train_settings
from intern_jax.train.stage import Stage

log = logging.getLogger("intern_jax.pipeline")

Fingerprints = Mapping[str, Mapping[str, list[str]]]  # {stage: {group: one per source}}


def content(
    entry: Mapping[str, Any],
    stage: Stage,
    spec: Mapping[str, Any],
    seed: int,
    start: Mapping[str, str],
    sources: Mapping[str, list[str]],
    files: Mapping[str, str],
) -> dict[str, Any]:
    """All that a stage's arrays depend on.

    `entry` is checked. `spec` is that of the backbone. `start` gives for each role the key of the stage bound to it,
    `sources` for each group the fingerprints of its sources, and `files` is the result of `files_of`.
    """
    groups = entry["data"].items()
    # Only the order of several sources has changed since the first format.
    mixed = any(len(group["sources"]) > 1 for _, group in groups)
    return config_lib.plain(
        {
            "settings": settings_lib.matter(entry),
            "backbone": described(spec),
            "seed": seed,
            "start": dict(start),
            "formats": {
                "stage": config_lib.format_of(stage),
                "transforms": {
                    name: config_lib.format_of(config_lib.resolve(group["transform"]["fn"]))
                    for name, group in groups
                },
                "networks": zoo.FORMAT,
                # Losses, own backbones and everything else that is named by a dotted name.
                "functions": config_lib.formats_in(
                    [entry["stage"], spec, *({"fn": name} for name in stage.functions)]
                ),
                "train": train_settings.FORMAT,
                **({"mixture": mixture.FORMAT} if mixed else {}),
            },
            "files": files,
            "sources": {name: list(prints) for name, prints in sources.items()},
        }
    )


def files_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """{path: SHA-256} of the files that arguments of a stage, backbone or transform name, such as a tokenizer's.

    Those of sources' class-aware sampling are among them.
    """
    groups = entry["data"].values()
    transforms = [group["transform"] for group in groups]
    balances = [source.get("balance") for group in groups for source in group["sources"]]
    named = _texts([entry["stage"], entry["backbone"], *transforms, *balances])
    # A tokenizer may be "clip:PATH".
    named |= {text.partition(":")[2] for text in named}
    # A plain word such as "embedded" is never a file name, even if the working directory has such a file.
    paths = sorted(
        text for text in named if set(text) & {"/", os.sep, "."} and os.path.isfile(text)
    )
    found = {}
    for path in paths:
        with open(path, "rb") as file:
            found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _texts(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return set().union(*map(_texts, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_texts, value))
    return {value} if isinstance(value, str) else set()


def key_of(content: Mapping[str, Any]) -> str:
    """The first twelve hexadecimal digits of the digest of `content`."""
    return config_lib.digest(content)[:12]


def described(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A backbone's spec with all settings of its module, so that a changed table or default changes the key."""
    module = zoo.from_config(spec)
    fields: tuple[dataclasses.Field[Any], ...] = ()
    if dataclasses.is_dataclass(module):
        fields = dataclasses.fields(module)
    values = {f.name: getattr(module, f.name) for f in fields if f.name not in ("parent", "name")}
    # A setting that is newer than keys counts only where it is used.
    unused = {f.name for f in fields if f.metadata.get("late") and values[f.name] == f.default}
    found = dict(spec) | {name: _plain(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if name not in unused}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.dtype):
        return value.name
    # A class or function counts by its name, which is the same in every process.
    return getattr(value, "__qualname__", type(value).__qualname__)


def fingerprints(settings: Mapping[str, Any]) -> Fingerprints:
    """The fingerprints of all stages' sources, taken on process 0 and sent to all processes.

    It opens the sources. One that cannot be opened is a UserError on all processes, before anything is trained.
    """
    found: dict[str, Any] = {}
    if hosts.is_main():
        try:
            found = {"made": _fingerprints(settings)}
        except UserError as error:
            found = {"refused": str(error)}
    found = hosts.broadcast_json(found, hosts.ALONE_SECONDS)
    if "refused" in found:
        raise UserError(found["refused"])
    return found["made"]


def _fingerprints(settings: Mapping[str, Any]) -> dict[str, dict[str, list[str]]]:
    # Stages share sources, and a source of records or folders takes time to open.
    known: dict[str, str] = {}
    len_of: dict[str, int] = {}
    made: dict[str, dict[str, list[str]]] = {}
    for stage in settings["stages"]:
        made[stage] = {}
        for group, cfg in settings[stage]["data"].items():
            prints = []
            for number, spec in enumerate(cfg["sources"]):
                said = {n: v for n, v in spec.items() if n not in SPEC_FIELDS}
                place = f"config.{stage}.data.{group}.sources[{number}]"
                name = config_lib.digest(said)
                if name not in known:
                    (source,) = _opened(said, place)
                    known[name], len_of[name] = fingerprint(source), len(source)
                walked = len_of[name] > MAX_TABLE and spec.get("shuffle", "full") == "full"
                # The order of so many records was another one before.
                prints.append(known[name] + (":walked" if walked else ""))
            made[stage][group] = prints
    return made


def _opened(spec: Mapping[str, Any], where: str) -> list[Any]:
    try:
        return group_sources({"sources": [spec]}, where)
    except UserError as error:
        said = str(error)
        raise UserError(said if said.startswith(where) else f"{where}: {said}") from error


def status(files: StageFiles, name: str, content: Mapping[str, Any]) -> str:
    """A text that says whether a stage is reused, resumed, new, or recomputed and why."""
    if files.done.exists():
        fault = products.wrong(files)
        return f"made again, because {fault}" if fault else "reused"
    folder = files.folder
    if folder.exists():
        return "continues"
    # Another stage's name may begin with this one's, so match the twelve hexadecimal digits of a key.
    found = folder.parent.glob(f"{name}-{'[0-9a-f]' * 12}/{files.key.name}")
    siblings = [path for path in found if path.parent != folder]
    if not siblings:
        return "new"
    newest = max(siblings, key=lambda path: path.stat().st_mtime)
    try:
        changes = config_lib.diff(strict_json.parse(newest.read_bytes()), content)
    except (OSError, ValueError, AttributeError):
        changes = [f"{newest} cannot be read"]
    return "recomputed, because " + "; ".join(changes)
