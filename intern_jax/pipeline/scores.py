"""Score a run's stages with the benchmark, save the model folder, and draw pictures for the report."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from intern_jax.adapt.cache import Memory
from intern_jax.benchmark import pictures, runner
from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.files import unless_read_only
from intern_jax.core.layout import Layout
from intern_jax.core.versions import versions
from intern_jax.models.text import TextTransformer
from intern_jax.pipeline.building import build_stage, group_of, in_dtype
from intern_jax.pipeline.products import Product
from intern_jax.processes import hosts
from intern_jax.weights import folder as folder_lib
from intern_jax.weights.model import Model
from intern_jax.weights.preprocess import Preprocess
from intern_jax.weights.text_tower import FIELDS, PARTS, TextTower

log = logging.getLogger("intern_jax.pipeline")

# How the transforms that ship resize a picture of which nothing is cut at random (weights/preprocess.py: RESIZE).
RESIZE = {
    "intern_jax.data.make.views:classification": "squash",
    "intern_jax.data.make.views:eval_classification": "squash",
    "intern_jax.data.make.pairs:PairViews": "squash",
    "intern_jax.data.make.views:centre_crop": "short",
    "intern_jax.data.make.dense:dense": "squash",
    "intern_jax.data.make.boxes:boxes": "fit",
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
    if first and products:
        last = settings["stages"][-1]
        with unless_read_only(layout.workdir):
            save_backbone(settings, products, last, layout.model)
            for name in settings["stages"][:-1]:
                if group_of(settings[name]["data"], "pairs"):
                    save_backbone(settings, products, name, layout.towers(name))
    if not settings["benchmark"]:
        return
    # One process scores, on its own devices, whatever the mesh of the stages spans.
    sizes = settings["mesh"] if hosts.everywhere() == 1 else {}
    mesh = mesh_lib.make_mesh(**sizes, devices=jax.local_devices())
    ladder = build_ladder(settings, products, seed)
    cfg = _benchmark(settings)
    kept = cfg["features"] or Memory()
    results["records"] += runner.run(
        cfg, ladder, seed, layout, mesh, versions(), kept, results["missing"]
    )
    if first:
        try:
            results["pictures"] = pictures.of_rows(cfg, ladder, seed, layout, mesh, kept)
            shown, results["zero_shot"] = zero_shot(settings, products, layout)
            results["pictures"] = results["pictures"] + shown
        except Exception as error:
            # Nothing that is only to look at may cost a run its scores.
            log.warning("no pictures: %s: %s", type(error).__name__, error)


def _benchmark(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The benchmark's settings, with the run's compute dtype in a network that they name."""
    cfg = dict(settings["benchmark"])
    if cfg["scratch"] and cfg["scratch"]["generalist"]:
        spec = in_dtype(cfg["scratch"]["generalist"], settings["compute_dtype"])
        cfg["scratch"] = cfg["scratch"] | {"generalist": spec}
    return cfg


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


def save_backbone(
    settings: Mapping[str, Any],
    products: Mapping[str, Product],
    name: str,
    folder: pathlib.Path,
) -> None:
    """Write a stage's backbone, and its text tower, as a model folder for `load` and `adapt --init`, if it has one."""
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
            text=text_tower(settings, products, name),
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
    if given.get("short"):
        log.info(
            "%s: it read pictures with a short side of at most %s pixels; the model folder's fill the canvas",
            stage,
            given["short"],
        )
    if function not in RESIZE:
        log.info(
            "%s: how %s resizes a picture is not known; the model folder says 'squash': "
            "correct preprocess in its model.json if that is wrong",
            stage,
            function,
        )
    return Preprocess(given["size"], RESIZE.get(function, "squash"))


def zero_shot(
    settings: Mapping[str, Any], products: Mapping[str, Product], layout: Layout
) -> tuple[list[dict[str, str]], dict[str, Any] | None]:
    """The zero-shot pictures of the first seed for the report, and the accuracy; none where the config wants none."""
    cfg = settings["benchmark"]["zero_shot"]
    if not cfg:
        return [], None
    product = products[cfg["stage"]]
    stage, transform = _of_pairs(settings, products, cfg["stage"])
    variables = tree.unflatten(product.variables)
    return pictures.zero_shot(stage, variables, cfg, transform, layout, product.key)


def _of_pairs(
    settings: Mapping[str, Any], products: Mapping[str, Product], name: str
) -> tuple[Any, Mapping[str, Any]]:
    """A stage that learns from pairs, and their transform."""
    entry = settings[name]
    specs = {other: product.spec for other, product in products.items()}
    stage = build_stage(entry, products[name].spec, {}, specs)
    stage.name = name
    return stage, entry["data"][group_of(entry["data"], "pairs")]["transform"]


def text_tower(
    settings: Mapping[str, Any], products: Mapping[str, Product], name: str
) -> TextTower | None:
    """The text tower that a stage trained, with what makes it comparable with the pictures; None if it has none."""
    arrays = {
        path.removeprefix("params/"): value
        for path, value in products[name].variables.items()
        if path.split("/")[:1] == ["params"] and path.split("/")[1] in PARTS
    }
    groups = settings[name]["data"]
    if "logit_scale" not in arrays or group_of(groups, "pairs") is None:
        return None
    stage, transform = _of_pairs(settings, products, name)
    given = {"out_dim": stage.towers.embed_dim, **stage.towers.text_spec}
    usual = {field: getattr(TextTransformer, field, None) for field in FIELDS}
    needed = {field: value for field, value in usual.items() if value is not None}
    # A folder's text tower computes in float32, like its parameters.
    known = {field: given[field] for field in FIELDS if field in given and field != "dtype"}
    return TextTower(needed | known, tree.unflatten(arrays), transform.get("tokenizer", "embedded"))
