"""Score a run's stages with the benchmark, save the model folder, and draw pictures for the report."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from intern_jax.benchmark import pictures, runner
from intern_jax.core import hosts, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.layout import Layout
from intern_jax.core.versions import versions
from intern_jax.pipeline.building import build_stage, group_of, in_dtype
from intern_jax.pipeline.products import Product
from intern_jax.weights import folder as folder_lib
from intern_jax.weights.model import Model
from intern_jax.weights.preprocess import Preprocess

log = logging.getLogger("intern_jax.pipeline")

# How the transforms that ship resize a picture of which nothing is cut at random (weights/preprocess.py: RESIZE).
RESIZE = {
    "intern_jax.data.make.views:classification": "squash",
    "intern_jax.data.make.views:eval_classification": "squash",
    "intern_jax.data.make.views:pair_views": "squash",
    "intern_jax.data.make.views:centre_crop": "short",
    "intern_jax.data.make.dense:dense": "squash",
}
OWN_VIEW = "intern_jax.weights.preprocess:classification"


def score(
    settings: Mapping[str, Any],
    products: Mapping[str, Product],
    seed: int,
    layout: Layout,
    results: dict[str, Any],
) -> None:
    """Add the scores of one seed's stages to `results`; the first seed also writes a model and pictures."""
    results["stages"] += [product.summary() for product in products.values()]
    first = seed == settings["seeds"][0]
    if first:
        save_last(settings, products, layout.model)
    if not settings["benchmark"]:
        return
    # One process scores, on its own devices, whatever the mesh of the stages spans.
    sizes = settings["mesh"] if hosts.everywhere() == 1 else {}
    mesh = mesh_lib.make_mesh(**sizes, devices=jax.local_devices())
    ladder = build_ladder(settings, products, seed)
    results["records"] += runner.run(
        settings["benchmark"], ladder, seed, layout, mesh, versions(), results["missing"]
    )
    if first:
        try:
            results["pictures"] = draw_pictures(settings, products, ladder, seed, mesh, layout)
        except Exception as error:
            # Nothing that is only to look at may cost a run its scores.
            log.warning("no pictures: %s: %s", type(error).__name__, error)


def build_ladder(
    settings: Mapping[str, Any], products: Mapping[str, Product], seed: int
) -> dict[str, dict[str, Model]]:
    """The benchmark's backbones {method: {"cls": ..., "dense": ...}}; the first is random."""
    spec = in_dtype(settings["backbone"], settings["compute_dtype"])
    random = Model.random(spec, seed)
    ladder = {"random": {"cls": random, "dense": random}}
    for method, by_task in settings["benchmark"]["ladder"].items():
        ladder[method] = {
            task: Model.from_arrays(
                products[stage].spec, products[stage].variables, f"{stage}-{products[stage].key}"
            )
            for task, stage in by_task.items()
        }
    return ladder


def save_last(
    settings: Mapping[str, Any], products: Mapping[str, Product], folder: pathlib.Path
) -> None:
    """Write the last stage's backbone as a model folder for `adapt --init` and `load`, if it has a backbone."""
    name = settings["stages"][-1]
    product, groups = products[name], settings[name]["data"]
    # Of several canvases, take that of whole pictures; the dense group's canvas is larger because of its maps.
    group = group_of(groups, "cls", "pairs") or next(iter(groups))
    pictures, variables = _reads(groups[group]["transform"], name), product.variables
    if pictures is None or not any("/backbone/" in array for array in variables):
        log.info("%s: no backbone of pictures of one size; no model folder is written", name)
        return
    backbone = Model.from_arrays(product.spec, variables, name)
    folder_lib.save_model(
        folder,
        dataclasses.replace(
            backbone,
            preprocess=pictures,
            provenance={"stage": f"{name}, seed {product.seed}, key {product.key}"},
        ),
    )


def _reads(transform: Mapping[str, Any], stage: str) -> Preprocess | None:
    """How a model reads pictures that was trained with this transform; None for pictures of several sizes."""
    given = dict(transform)
    function = given.pop("fn")
    if function == OWN_VIEW:
        return Preprocess(**given)
    if not isinstance(given.get("size"), int):
        return None
    if function not in RESIZE:
        log.info(
            "%s: how %s resizes a picture is not known; the model folder says 'squash': "
            "correct preprocess in its model.json if that is wrong",
            stage,
            function,
        )
    return Preprocess(given["size"], RESIZE.get(function, "squash"))


def draw_pictures(
    settings: Mapping[str, Any],
    products: Mapping[str, Product],
    ladder: Mapping[str, Any],
    seed: int,
    mesh: jax.sharding.Mesh,
    layout: Layout,
) -> list[dict[str, str]]:
    """Draw predictions of the first seed for the report: dense rows, and the amateur's zero-shot words."""
    cfg = settings["benchmark"]
    made = pictures.of_rows(cfg, ladder, seed, layout, mesh)
    zero_shot = cfg.get("zero_shot")
    if zero_shot:
        product = products[zero_shot["stage"]]
        entry = settings[zero_shot["stage"]]
        variables = dict(tree.unflatten(product.variables))
        transform = entry["data"][group_of(entry["data"], "pairs")]["transform"]
        specs = {name: other.spec for name, other in products.items()}
        made += pictures.zero_shot(
            build_stage(entry, product.spec, {}, specs),
            variables.pop("params"),
            variables,
            zero_shot["row"],
            transform["size"],
            transform["context"],
            layout,
        )
    return made
