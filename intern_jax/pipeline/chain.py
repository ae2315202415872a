"""Run a config's stages in order, then its benchmark and its report: the only file that knows every room.

A stage's output lies in workdir/seed<S>/<stage>-<key>: the key is the digest of its resolved settings, its seed,
its data and the keys of the stages it starts from. The same key continues or is reused; another key is another
folder, and what differs from the newest sibling is printed.

Several processes all train; process 0 alone decides what is done, writes what is not a checkpoint, and scores.
"""

import json
import logging
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from intern_jax.adapt.backbone import Backbone
from intern_jax.benchmark import runner
from intern_jax.core import config as config_lib
from intern_jax.core import hosts, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json
from intern_jax.core.versions import versions
from intern_jax.data.stream import Segment, Stream
from intern_jax.models import zoo
from intern_jax.ops.images import MEAN, STD
from intern_jax.train import loop
from intern_jax.train import settings as settings_lib
from intern_jax.version import __version__
from intern_jax.weights import folder as folder_lib
from intern_jax.weights import safetensors

log = logging.getLogger(__name__)


def run(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
    """Train every stage for every seed, score the benchmark rows, and write results.json and report.html.

    All processes of a run call it; those beside process 0 get no scores. Raises hosts.Stopped after SIGTERM.
    """
    settings = config_lib.plain(config)
    workdir = pathlib.Path(workdir)
    check(settings)
    hosts.check_same({"config": settings, "versions": versions()}, "start")
    workdir.mkdir(parents=True, exist_ok=True)
    config_lib.enable_compilation_cache(workdir / "compiled")
    mesh = mesh_lib.make_mesh(**settings["mesh"])
    results = {
        "config": settings,
        "versions": versions(),
        "stages": [],
        "records": [],
        "pictures": [],
    }
    started = time.time()
    for seed in settings["seeds"]:
        products = train_stages(settings, seed, mesh, workdir)
        with hosts.main_alone(f"scores of seed {seed}") as here:
            if here:
                score(settings, products, seed, workdir, results)
    with hosts.main_alone("report") as here:
        if here:
            results["table"] = runner.table(runner.test_records(results["records"]))
            results["seconds"] = round(time.time() - started, 1)
            write_json(workdir / "results.json", results)
            # Here, since matplotlib takes its time, which a training that starts again has not.
            from intern_jax.report import html

            html.write_report(workdir)
    return results


class Product:
    """A finished stage: its folder, its key and the arrays that later stages start from."""

    def __init__(
        self, name: str, seed: int, key: str, folder: pathlib.Path, spec: Mapping[str, Any]
    ):
        self.name, self.seed, self.key, self.folder, self.spec = name, seed, key, folder, dict(spec)

    @property
    def variables(self) -> dict[str, np.ndarray]:
        """Flat arrays under "params/..." and "batch_stats/..."."""
        return tree.names(safetensors.load(self.folder / "model.safetensors"))

    def summary(self) -> dict[str, Any]:
        """What results.json says of the stage."""
        done = json.loads((self.folder / "done.json").read_text())
        return {
            "name": self.name,
            "seed": self.seed,
            "digest": self.key,
            "history": os.path.relpath(self.folder / "metrics.jsonl", self.folder.parent.parent),
            **done,
        }


def score(
    settings: Mapping[str, Any],
    products: Mapping[str, Product],
    seed: int,
    workdir: pathlib.Path,
    results: dict[str, Any],
) -> None:
    """Add to `results` what one seed's stages are worth; the first seed also leaves a model and pictures."""
    results["stages"] += [product.summary() for product in products.values()]
    first = seed == settings["seeds"][0]
    if first:
        save_last(settings, products, workdir / "model")
    if not settings.get("benchmark"):
        return
    # One process is at work here: on its own devices, whatever the mesh of the stages spans.
    sizes = settings["mesh"] if hosts.everywhere() == 1 else {}
    mesh = mesh_lib.make_mesh(**sizes, devices=jax.local_devices())
    ladder = build_ladder(settings, products, seed)
    results["records"] += runner.run(
        settings["benchmark"], ladder, seed, workdir / "records", mesh, versions()
    )
    if first:
        results["pictures"] = draw_pictures(settings, products, ladder, seed, mesh, workdir)


def check(settings: Mapping[str, Any]) -> None:
    """Resolve every name and argument of a config, so that a mistake costs a second."""
    for field in ("seeds", "mesh", "compute_dtype", "backbone", "stages"):
        if field not in settings:
            raise UserError(f"config.{field}: missing; see configs/quickstart.py for its form")
    zoo.build(settings["backbone"])
    if settings["compute_dtype"] not in ("auto", "float32", "bfloat16"):
        given = settings["compute_dtype"]
        raise UserError(f"config.compute_dtype: {given!r}; write auto, float32 or bfloat16")
    workers = settings.get("workers", 0)
    if not isinstance(workers, int) or workers < 0:
        raise UserError(f"config.workers: {workers!r}; write a whole number, 0 for threads")
    for position, name in enumerate(settings["stages"]):
        if name not in settings:
            raise UserError(
                f"config.{name}: stage '{name}' is listed in config.stages, not described"
            )
        entry = settings[name]
        for earlier in entry["start"]:
            if earlier not in settings["stages"][:position]:
                raise UserError(
                    f"config.{name}.start: '{earlier}' is no earlier stage of config.stages"
                )
        config_lib.bind(entry["stage"])
        settings_lib.check(entry["train"])
        if entry.get("backbone"):
            zoo.build(entry["backbone"])
        for group, cfg in entry["data"].items():
            if not cfg.get("sources"):
                raise UserError(
                    f"config.{name}.data.{group}.sources: empty; name at least one source"
                )
            for source in cfg["sources"]:
                config_lib.bind({k: v for k, v in source.items() if k != "weight"})
            config_lib.bind(cfg["transform"])
    if settings.get("benchmark"):
        runner.check(settings["benchmark"], settings["stages"], "config.benchmark")


def train_stages(
    settings: Mapping[str, Any], seed: int, mesh: jax.sharding.Mesh, workdir: pathlib.Path
) -> dict[str, Product]:
    """All stages of one seed, in order, reusing what is already there."""
    products: dict[str, Product] = {}
    for name in settings["stages"]:
        entry = settings[name]
        spec = in_dtype(entry.get("backbone") or settings["backbone"], settings["compute_dtype"])
        content = {
            "settings": entry,
            "backbone": spec,
            "seed": seed,
            "start": {earlier: products[earlier].key for earlier in entry["start"]},
            "version": __version__,
        }
        key = config_lib.digest(content)[:12]
        folder = workdir / f"seed{seed}" / f"{name}-{key}"
        products[name] = Product(name, seed, key, folder, spec)
        found = hosts.broadcast_json(status(folder, name, content))
        log.info("%s (seed %d): %s", name, seed, found)
        if found != "reused":
            if hosts.is_main():
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / "key.json", content)
            start = [products[earlier] for earlier in entry["start"]]
            train_stage(content, mesh, folder, start, settings.get("workers", 0))
    return products


def status(folder: pathlib.Path, name: str, content: Mapping[str, Any]) -> str:
    """Say whether a stage is reused, continued, new, or recomputed and because of what."""
    if (folder / "done.json").exists():
        return "reused"
    if folder.exists():
        return "continues"
    siblings = [p for p in folder.parent.glob(f"{name}-*/key.json") if p.parent != folder]
    if not siblings:
        return "new"
    newest = max(siblings, key=lambda path: path.stat().st_mtime)
    changes = config_lib.diff(json.loads(newest.read_text()), json.loads(json.dumps(content)))
    return "recomputed, because " + "; ".join(changes)


def train_stage(
    content: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
    folder: pathlib.Path,
    start: list[Product],
    workers: int,
) -> None:
    """Train one stage to its end and leave model.safetensors, metrics.jsonl and done.json in `folder`.

    `content`: what its key is the digest of. `workers`: processes that make its batches, 0 for threads.
    """
    started = time.time()
    entry, seed = content["settings"], content["seed"]
    rows = mesh_lib.batch_rows(mesh)
    stream = Stream(entry["data"], [Segment(seed=seed)], rows, workers=workers)
    stage = build_stage(entry, content["backbone"], stream.sources)
    source = hosts.share(lambda: starting_arrays(start))
    notes = {"stage": content, "versions": versions()}
    try:
        cfg = {**entry["train"], "seed": seed}
        result = loop.fit(stage, stream, cfg, mesh, folder, source or None, notes)
    finally:
        stream.close()
    state = result.state
    params = state.params if state.ema is None else state.ema
    arrays = hosts.to_host({"params": params, **state.extra})
    if not hosts.is_main():
        return
    safetensors.save(folder / "model.safetensors", arrays, {"version": __version__})
    write_json(
        folder / "done.json",
        {
            "steps": int(state.step),
            "bad_steps": int(state.bad_total),
            "seconds": round(time.time() - started, 1),
            "graft": result.report.summary() if result.report else "none",
        },
    )


def starting_arrays(start: list[Product]) -> dict[str, np.ndarray]:
    """The arrays of earlier stages, under their stages' names."""
    return {
        f"{product.name}/{name}": value
        for product in start
        for name, value in product.variables.items()
    }


def in_dtype(spec: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A backbone spec that computes in `dtype`; "auto" is bfloat16 on accelerators and float32 on CPU.

    Parameters, statistics, softmax and losses stay float32; a spec that names its own dtype keeps it.
    """
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    spec = dict(spec)
    if dtype == "float32":
        return spec
    if "branch" in zoo.VARIANTS[spec["name"]]:
        branch = spec.get("branch", zoo.VARIANTS[spec["name"]]["branch"])
        return spec | {"branch": {"dtype": dtype, **branch}}
    return {"dtype": dtype, **spec}


def build_stage(
    entry: Mapping[str, Any], spec: Mapping[str, Any], sources: Mapping[str, Any]
) -> Any:
    """The stage object of a config entry; a supervised stage also learns its sources' class counts."""
    arguments = {"backbone": spec}
    if entry.get("heads", False):
        arguments["classes"] = {
            group: [(source.name, head_classes(source)) for source in opened]
            for group, opened in sources.items()
        }
    return config_lib.bind(entry["stage"])(**arguments)


def head_classes(source: Any) -> int:
    """How many classes a source's head has: 0 where it has depth and no classes."""
    return 0 if source.family == "depth" else len(source.classes)


def build_ladder(
    settings: Mapping[str, Any], products: Mapping[str, Product], seed: int
) -> dict[str, dict[str, Backbone]]:
    """Backbones of the benchmark: {method: {"cls": ..., "dense": ...}}, beginning with a random one."""
    spec = in_dtype(settings["backbone"], settings["compute_dtype"])
    random = Backbone.random(spec, seed)
    ladder = {"random": {"cls": random, "dense": random}}
    for method, by_task in settings["benchmark"]["ladder"].items():
        ladder[method] = {
            task: Backbone.from_arrays(
                products[stage].spec, products[stage].variables, f"{stage}-{products[stage].key}"
            )
            for task, stage in by_task.items()
        }
    return ladder


def save_last(
    settings: Mapping[str, Any], products: Mapping[str, Product], folder: pathlib.Path
) -> None:
    """The last stage's backbone as a model folder, for `adapt --init` and `load`."""
    name = settings["stages"][-1]
    product, groups = products[name], settings[name]["data"]
    backbone = Backbone.from_arrays(product.spec, product.variables, name)
    # Of several canvases that of whole pictures: the dense group's is larger for its maps' sake.
    group = next((g for g in ("cls", "pairs") if g in groups), next(iter(groups)))
    folder_lib.save_model(
        folder,
        task="backbone",
        backbone=product.spec,
        variables=tree.unflatten(backbone.graft_source()),
        canvas=groups[group]["transform"]["size"],
        mean=MEAN,
        std=STD,
        provenance={"stage": f"{name}, seed {product.seed}, key {product.key}"},
    )


def draw_pictures(
    settings: Mapping[str, Any],
    products: Mapping[str, Product],
    ladder: Mapping[str, Any],
    seed: int,
    mesh: jax.sharding.Mesh,
    workdir: pathlib.Path,
) -> list[dict[str, str]]:
    """Predictions of the first seed for the report: dense rows, and the amateur's zero-shot words."""
    from intern_jax.benchmark import pictures  # matplotlib again

    cfg, folder = settings["benchmark"], workdir / "pictures"
    made = pictures.dense_rows(cfg, ladder, seed, folder, mesh)
    zero_shot = cfg.get("zero_shot")
    if zero_shot:
        product = products[zero_shot["stage"]]
        entry = settings[zero_shot["stage"]]
        variables = dict(tree.unflatten(product.variables))
        transform = entry["data"]["pairs"]["transform"]
        made += pictures.zero_shot(
            build_stage(entry, product.spec, {}),
            variables.pop("params"),
            variables,
            zero_shot["row"],
            transform["size"],
            transform["context"],
            folder,
        )
    return made
