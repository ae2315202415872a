"""A pipeline of curation: a config's steps in order, each in a folder of its own that is named by a digest.

`steps` names them; config[NAME] is {"fn": "intern_jax.curation.filters:filter_pool", **arguments}. A step gets the
latest `pool` and `index`, its folder as `out`, and the `runner`, as far as it has such parameters. Equal settings and
inputs give the same folder, so that finished parts are used again; a changed step is made anew with all after it.
"""

import inspect
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from intern_jax.core.config import UserError, bind, format_of, plain, resolve
from intern_jax.core.files import write_json
from intern_jax.curation.running import engine
from intern_jax.data.schema import fingerprints
from intern_jax.data.sources.pool import Index, Pool

log = logging.getLogger(__name__)
SUMMARY = "pipeline.json"


def run(
    config: ml_collections.ConfigDict | Mapping[str, Any],
    workdir: str | os.PathLike[str],
    runner: engine.Runner | None = None,
) -> dict[str, Any]:
    """Run a config's `steps` in `workdir`; returns what pipeline.json holds: per step its folder and counts."""
    settings = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    workdir, steps = pathlib.Path(workdir), _checked(settings)
    pool, index = None, None
    done: list[dict[str, Any]] = []
    for step in steps:
        began = time.monotonic()
        given = {"pool": pool and str(pool.folder), "index": index and str(index.folder)}
        folder = workdir / f"{step['name']}-{_digest(step, pool, index)}"
        made = _call(step, folder, {**given, "runner": runner})
        entry: dict[str, Any] = {"name": step["name"], "folder": folder.name}
        if isinstance(made, Pool):
            # An index is of one pool.
            pool, index = made, None
            entry |= {"pool": made.name, "records": len(made), "counts": made.manifest["counts"]}
        elif isinstance(made, Index):
            index = made
            entry |= {"kept": len(made.kept), "counts": made.content["counts"]}
            # Where later readers find rows, and what may be scored.
            entry |= {k: made.content[k] for k in ("rows", "decontaminated") if k in made.content}
        elif isinstance(made, pathlib.Path):
            entry["file"] = str(made.relative_to(workdir))
        done.append(entry)
        write_json(workdir / SUMMARY, {"config": plain(settings), "steps": done})
        log.info("%s: %s", step["name"], _told(entry, time.monotonic() - began))
    return {"config": plain(settings), "steps": done}


def _checked(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps, after their names, functions and arguments were looked at."""
    names = list(settings.get("steps", ()))
    if not names:
        raise UserError("config.steps: empty; name at least one step, which the config describes")
    steps = []
    for number, name in enumerate(names):
        if not isinstance(name, str) or names.count(name) > 1:
            raise UserError(f"config.steps[{number}]: {name!r}; give each step a name of its own")
        given = settings.get(name)
        if not isinstance(given, Mapping) or "fn" not in given:
            raise UserError(
                f"config.{name}.fn: missing; name the step's function as 'module:function'"
            )
        known = inspect.signature(resolve(given["fn"])).parameters
        wrong = sorted(set(given) - {"fn"} - set(known))
        if wrong:
            raise UserError(
                f"config.{name}.{wrong[0]}: unknown; {given['fn']} has {', '.join(known)}"
            )
        steps.append({"name": name, **given})
    unused = sorted(set(settings) - {"steps", *names})
    if unused:
        raise UserError(f"config.{unused[0]}: no such step; config.steps has {', '.join(names)}")
    return steps


def _digest(step: Mapping[str, Any], pool: Pool | None, index: Index | None) -> str:
    arguments = json.dumps(plain({k: v for k, v in step.items() if k != "name"}), sort_keys=True)
    inputs = (pool and pool.digest, index and index.digest)
    contents = list(_contents({k: v for k, v in step.items() if k not in ("name", "fn")}))
    return fingerprints.combine(arguments, format_of(resolve(step["fn"])), inputs, contents)


def _contents(value: Any) -> Iterator[str]:
    """Digests of the files and sources that a step's arguments name: other content is another step."""
    if isinstance(value, str) and os.path.isfile(value):
        yield fingerprints.of_content(value)
    elif isinstance(value, Mapping) and isinstance(value.get("fn"), str):
        try:
            yield fingerprints.fingerprint(bind(value)())
        except UserError as error:
            yield str(error)  # the step says it, if it needs the data
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _contents(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _contents(inner)


def _call(step: Mapping[str, Any], folder: pathlib.Path, given: Mapping[str, Any]) -> Any:
    known = inspect.signature(resolve(step["fn"])).parameters
    spec = {k: v for k, v in step.items() if k != "name"}
    inputs = {
        k: v for k, v in {**given, "out": str(folder)}.items() if k in known and k not in spec
    }
    if "pool" in inputs and inputs["pool"] is None:
        raise UserError(f"config.{step['name']}: needs a pool; let a step pack one before it")
    return bind(spec)(**inputs)


def _told(entry: Mapping[str, Any], seconds: float) -> str:
    counts = ", ".join(f"{k} {v:,}" for k, v in entry.get("counts", {}).items() if v)
    return f"{counts} ({seconds:.0f} s), {entry['folder']}"
