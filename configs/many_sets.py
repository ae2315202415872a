"""Experts of many data sets: of one set or of all, with the amateur's losses beside the labels, with equal gradients.

Command:   python -m intern_jax run --config=configs/many_sets.py --workdir=runs/many_sets
Needs:     runs/wide_world, made by `data run --config=wide_world` (configs/wide_world.py tells how)
Hardware:  two CPU cores, no accelerator: about an hour; a run that was stopped goes on by the same command
Longer:    --config.amateur.train.steps=4800 and so on for each stage, and --config.seeds="(0, 1, 2)"

`one` learns from one set of each family: emoji, and scenes of sprites. `all` learns from every set: three embedded ones
and twelve makers of the wide world, each with a head of its own, and three of scenes and rooms. `all_text` keeps the
amateur's losses on its pairs beside the labels. `all_equal` sets the weights of the sets once, so that the gradients of
all are equal at the trunk. They are asked about embedded rows and about rows of the wide world. The
embedded pictures were not compared with the wide rows, so the figures of those are of direction only.
"""

import copy
from typing import Any

import ml_collections

from intern_jax.core.config import load_config

WORLD = "runs/wide_world"
# The largest sets that the step `sets` cuts.
MAKERS = (
    *("streamline", "iconmind", "keyline_icons", "phosphor_icons", "material_design_authors"),
    *("cycraft", "boxicons", "resolve_to_save_lives", "hugeicons", "mingcute_design"),
    *("dariush_habibpour", "pictogrammers"),
)
STEPS = {"amateur": 1200, "cls": 600, "dense": 300}
FORMS = ("one", "all", "all_text", "all_equal")


def get_config() -> ml_collections.ConfigDict:
    """One amateur, and four forms of an expert of classes and of one of scenes."""
    config = load_config("quickstart")
    quick = {name: config[name].to_dict() for name in ("amateur", "expert_cls", "expert_dense")}
    for name in config.stages:
        del config[name]
    config.amateur = amateur(quick["amateur"])
    stages, ladder = ["amateur"], {"amateur": {"cls": "amateur", "dense": "amateur"}}
    for form in FORMS:
        for kind in ("cls", "dense"):
            entry = quick[f"expert_{kind}"]
            config[f"{kind}_{form}"] = expert(entry, kind, form, config.amateur.to_dict())
            stages.append(f"{kind}_{form}")
        ladder[form] = {kind: f"{kind}_{form}" for kind in ("cls", "dense")}
    config.stages = tuple(stages)
    benchmark = config.benchmark
    benchmark.rows = (
        *("emoji_style_group", "clipart_leaf", "fashion", "wide_new_maker", "wide_new_concept"),
        *("sprites_seg", "rooms_seg", "wide_scenes_seg"),
    )
    benchmark.contaminated = ("wide_new_maker", "wide_new_concept", "wide_scenes_seg")
    benchmark.fractions = (0.1,)
    benchmark.draws = 1
    benchmark.ladder, benchmark.rungs = ladder, tuple(ladder)
    benchmark.zero_shot = benchmark.scratch = benchmark.finetune = None
    return config


def amateur(entry: dict) -> dict:
    """The quickstart's amateur on pairs of the wide world and embedded ones."""
    made = copy.deepcopy(entry)
    pairs = made["data"]["pairs"]
    world = {"fn": "intern_jax.data.open.opening:open_data", "data": WORLD, "split": "pretrain"}
    embedded = [source | {"weight": source["weight"] / 2} for source in pairs["sources"]]
    pairs["sources"] = (world | {"weight": 0.5}, *embedded)
    # Thin lines on coloured grounds: over random ones nothing was learnt in 300 steps.
    pairs["transform"]["view1"][0]["background"] = "grey"
    made["train"] = trained(made["train"], STEPS["amateur"], 1e-3)
    return made


def expert(entry: dict, kind: str, form: str, start: dict) -> dict:
    """An expert of one kind of groups in one of FORMS."""
    made = copy.deepcopy(entry)
    (group,) = made["data"].values()
    group["transform"]["background"] = "grey"
    if form == "one":
        group["sources"] = group["sources"][:1]
    else:
        wide = [set_of(name) for name in MAKERS] if kind == "cls" else [scenes()]
        group["sources"] = (*({**s, "weight": 1.0} for s in group["sources"]), *wide)
        # Shares by the square root of the sets' sizes.
        group["temperature"] = 2.0
    steps = STEPS[kind]
    made["train"] = trained(made["train"], steps, made["train"]["optim"]["learning_rate"])
    if form == "all_text":
        made["stage"]["pairs"] = {n: v for n, v in start["stage"].items() if n != "fn"}
        made["data"]["pairs"] = start["data"]["pairs"]
    if form == "all_equal":
        made["train"]["balance"] = {"step": steps // 6}
    return made


def set_of(name: str) -> dict[str, Any]:
    """A maker's data set."""
    return {"fn": "intern_jax.data.sources.cut:open_set", "name": name, "workdir": WORLD}


def scenes() -> dict[str, Any]:
    """Scenes of the wide world's cut-outs."""
    opened = {"fn": "intern_jax.data.sources.cutouts:open_scenes", "workdir": WORLD}
    return opened | {"split": "pretrain", "family": "segmentation"}


def trained(train: dict, steps: int, learning_rate: float) -> dict:
    """Settings of the loop for so many steps."""
    optim = train["optim"] | {"learning_rate": learning_rate, "warmup_steps": steps // 20}
    return train | {"steps": steps, "log_every": 50, "optim": optim}
