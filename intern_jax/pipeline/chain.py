"""Run a config's stages in order, then its benchmark and its report.

The output of a stage is the folder workdir/seed<S>/<stage>-<key> (keys.py). A folder with the same key is resumed or
reused. Another key is another folder, and the run prints the differences from the newest sibling.

All processes train. Process 0 alone decides what is done, writes all files but checkpoints, and scores.
"""

import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from intern_jax.benchmark.scores import table
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.compiled import enable_compilation_cache
from intern_jax.core.config import UserError
from intern_jax.core.files import unless_read_only, write_json
from intern_jax.core.layout import Layout
from intern_jax.core.provenance import made
from intern_jax.core.versions import versions
from intern_jax.data.batches.segments import scheduled
from intern_jax.data.batches.stream import Stream
from intern_jax.pipeline import keys, preflight, scores
from intern_jax.pipeline import products as products_lib
from intern_jax.pipeline import settings as settings_lib
from intern_jax.pipeline.building import build_stage, evaluations, spec_of
from intern_jax.pipeline.products import Product
from intern_jax.processes import hosts, lock
from intern_jax.train import loop

log = logging.getLogger("intern_jax.pipeline")


def run(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
    """Train every stage for every seed, score the benchmark rows, and write results.json and report.html.

    All processes of a run call it; only process 0 gets scores. Raises hosts.Stopped after SIGTERM, and
    table.Incomplete, with everything else written, if a row's data was missing or broke.
    """
    settings = settings_lib.check(config)
    layout = Layout.of(workdir)
    hosts.check_same({"config": settings, "versions": versions()}, "start")
    mesh = mesh_lib.make_mesh(**settings["mesh"])
    prints = keys.fingerprints(settings)
    with lock.held(layout.make().lock):
        return _run(settings, layout, mesh, prints)


def _run(
    settings: Mapping[str, Any],
    layout: Layout,
    mesh: jax.sharding.Mesh,
    prints: keys.Fingerprints,
) -> dict[str, Any]:
    enable_compilation_cache(layout.compiled)
    results: dict[str, Any] = {
        "config": settings,
        "versions": versions(),
        "stages": [],
        "records": [],
        "missing": {},
        "pictures": [],
    }
    started = time.time()
    for seed in settings["seeds"]:
        products = train_stages(settings, prints, seed, mesh, layout)
        with hosts.main_alone(f"scores of seed {seed}") as here:
            if here:
                scores.score(settings, products, seed, layout, results)
    with hosts.main_alone("report") as here:
        if here:
            records = results["records"]
            results |= table.results(records, [layout.records], results["missing"])
            results["records"] = [record.plain() for record in records]
            results["seconds"] = round(time.time() - started, 1)
            results["made"] = made() | {"devices": _devices(mesh)}
            # Imported here: matplotlib imports slowly, and a training that resumes does not need it.
            from intern_jax.report import html

            with unless_read_only(layout.workdir):
                write_json(layout.results, results)
                html.write_report(layout.workdir)
    if results["missing"]:
        raise table.Incomplete("config.benchmark.rows", results["missing"], results["table"])
    return results


def _devices(mesh: jax.sharding.Mesh) -> str:
    """The devices of a mesh in words: "8 x TPU v5 lite"."""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}"


@dataclasses.dataclass(frozen=True)
class Link:
    """A stage of the chain: its product, the content that its key is a digest of, and the stages it starts from."""

    product: Product
    content: Mapping[str, Any]
    bound: Mapping[str, Product]  # by role


def train_stages(
    settings: Mapping[str, Any],
    prints: keys.Fingerprints,
    seed: int,
    mesh: jax.sharding.Mesh,
    layout: Layout,
) -> dict[str, Product]:
    """Train all stages of one seed in order and reuse finished ones; `settings` is a checked config."""
    chain = links(settings, prints, seed, layout)
    found = None
    if hosts.is_main():
        found = {n: keys.status(link.product.files, n, link.content) for n, link in chain.items()}
    found = hosts.broadcast_json(found)
    traced: preflight.Products = {}
    for name in chain:
        if found[name] != "reused":
            _check_batches(mesh, settings[name], f"config.{name}")
            preflight.check(settings, name, mesh, traced)
    for name, link in chain.items():
        log.info("%s (seed %d): %s", name, seed, found[name])
        if found[name] != "reused":
            if hosts.is_main():
                link.product.folder.mkdir(parents=True, exist_ok=True)
                write_json(link.product.files.key, link.content)
            train_stage(settings, link, mesh)
    return {name: link.product for name, link in chain.items()}


def links(
    settings: Mapping[str, Any], prints: keys.Fingerprints, seed: int, layout: Layout
) -> dict[str, Link]:
    """The stages of one seed by name, with their keys and folders, which depend on config and data alone."""
    chain: dict[str, Link] = {}
    for name in settings["stages"]:
        entry, spec = settings[name], spec_of(settings, name)
        bound = {role: chain[s].product for role, s in entry["start"].items() if s}
        specs = {earlier: link.product.spec for earlier, link in chain.items()}
        stage = build_stage(entry, spec, {}, specs)
        start = {role: product.key for role, product in bound.items()}
        # The key of process 0, so that all processes work in one folder.
        content = None
        if hosts.is_main():
            files = keys.files_of(entry)
            content = keys.content(entry, stage, spec, seed, start, prints[name], files)
        content = hosts.broadcast_json(content)
        key = keys.key_of(content)
        product = Product(name, seed, key, layout, spec)
        chain[name] = Link(product, content, bound)
    return chain


def _check_batches(mesh: jax.sharding.Mesh, entry: Mapping[str, Any], where: str) -> None:
    """Raise UserError for batches that do not divide over the mesh, before any stage is trained."""
    _, hosts_of_rows = mesh_lib.batch_rows(mesh)
    for name, group in entry["data"].items():
        size = group["batch_size"]
        if size % hosts_of_rows:
            raise UserError(
                f"{where}.data.{name}.batch_size: {size} does not divide over {hosts_of_rows} hosts; "
                "take a multiple"
            )
        rows = {name: {"rows": range(size // hosts_of_rows)}}
        try:
            mesh_lib.check_batch(mesh, rows, entry["train"]["accumulate"])
        except UserError as error:
            raise UserError(f"{where}.{error}") from None


def train_stage(settings: Mapping[str, Any], link: Link, mesh: jax.sharding.Mesh) -> None:
    """Train one stage to its end and write model.safetensors, metrics.jsonl and done.json to its folder."""
    started, product = time.time(), link.product
    entry, seed = settings[product.name], product.seed
    specs = {earlier.name: earlier.spec for earlier in link.bound.values()}
    stream = Stream(
        entry["data"],
        scheduled(entry["data"], seed),
        mesh_lib.batch_rows(mesh),
        workers=settings["workers"],
    )
    try:
        stage = build_stage(entry, product.spec, stream.sources, specs)
        stage.name = product.name
        notes = {
            "stage": link.content,
            "start": products_lib.noted(link.bound),
            "versions": versions(),
        }
        result = loop.fit(
            stage,
            stream,
            {**entry["train"], "seed": seed},
            mesh,
            product.folder,
            products_lib.taken(link.bound, stage),
            notes,
            evaluations=evaluations(entry, stage, mesh),
        )
    finally:
        stream.close()
    state = result.state
    facts = {
        "steps": int(state.step),
        "bad_steps": int(state.bad_total),
        "seconds": round(time.time() - started, 1),
        "graft": result.report.summary() if result.report else "none",
    }
    product.write(stage, state, facts)
