"""What each supervision of image-text pairs adds: five amateurs of equal images on the wide world, and what they know.

Command:   python -m intern_jax run --config=configs/amateurs.py --workdir=runs/amateurs
Needs:     runs/wide_world, made by `data run --config=wide_world` (configs/wide_world.py tells how)
Hardware:  two CPU cores, no accelerator; a run that was stopped goes on by the same command
Longer:    --config.clip.train.steps=4800 and so on for each stage, and --config.seeds="(0, 1, 2)"

`clip` is CLIP's loss of one view and one text, `views` that of two views and two texts. `self` adds SimSiam and masked
words, `near` the nearest neighbours, and `local` the patch loss of the local sub-stage. All see the same pairs, half of
the wide world and half embedded. Each is asked on makers that it has not seen (icons of 504 concepts): recall at 1
among one picture per concept, and accuracy on the concepts' names. Then 10% of the labels of four rows are learnt from
its features.
"""

import copy
from typing import Any

import ml_collections

from intern_jax.core.config import load_config

WORLD = "runs/wide_world"
MAKE = "intern_jax.data.make"
# Stage -> its losses. A rung's name begins with that of the one below, so that they stand in this order.
STAGES = {
    "clip": "clip",
    "clip_views": "views",
    "clip_views_self": "self_supervised",
    "clip_views_self_near": "declip",
    "clip_views_self_near_local": "local",
}
SIZE = 32


def get_config() -> ml_collections.ConfigDict:
    """The quickstart's amateur on other pairs, by five sets of losses, and four of the mini rows."""
    config = load_config("quickstart")
    amateur = config.amateur.to_dict()
    for name in config.stages:
        del config[name]
    config.stages = tuple(STAGES)
    pairs = amateur["data"]["pairs"]
    world = {"fn": "intern_jax.data.open.opening:open_data", "data": WORLD, "split": "pretrain"}
    # Of the wide world alone, whose words are many, little was learnt in 500 steps: half is embedded pairs.
    embedded = [source | {"weight": source["weight"] / 2} for source in pairs["sources"]]
    pairs["sources"] = (world | {"weight": 0.5}, *embedded)
    # Thin lines on coloured grounds: over random ones nothing was learnt in 300 steps.
    pairs["transform"]["view1"][0]["background"] = "grey"
    for name, losses in STAGES.items():
        config[name] = stage(amateur, losses)
    benchmark = config.benchmark
    benchmark.rows = ("emoji_style_group", "clipart_leaf", "rooms_seg", "rooms_depth")
    benchmark.draws = 3
    benchmark.ladder = {name: {"cls": name, "dense": name} for name in STAGES}
    benchmark.rungs = ()
    benchmark.zero_shot = benchmark.scratch = benchmark.finetune = None
    for family in ("segmentation", "depth"):
        benchmark.heads[family].panoptic.steps = (150, 450)
        benchmark.heads[family].panoptic.flips = (False, True)
    return config


def stage(amateur: dict, losses: str) -> dict:
    """One amateur: its losses, 1,200 steps of 128 pairs, and its questions at the end."""
    data = copy.deepcopy(amateur["data"])
    if losses in ("clip", "views"):
        data["pairs"]["transform"]["mask"] = 0.0
    made: dict[str, Any] = {"fn": "intern_jax.stages.amateur:Amateur", "losses": losses}
    if losses == "local":
        made = {
            "fn": "intern_jax.stages.amateur_local:AmateurLocal",
            "losses": "declip",
            "prototypes": 1024,
            "hidden_width": 256,
            "bottleneck": 64,
        }
    steps = 1200
    train = amateur["train"] | {"steps": steps, "log_every": 50}
    train["optim"] = train["optim"] | {"learning_rate": 1e-3, "warmup_steps": steps // 20}
    return {
        "stage": amateur["stage"] | made | {"bank": {"size": 1 << 14}},
        "start": {},
        "data": data,
        "train": train,
        "evaluators": {
            "zero_shot": question("zero_shot:ZeroShot", steps) | {"templates": ("{}",)},
            "retrieval": question("retrieval:Retrieval", steps, per_class=1),
        },
    }


def question(evaluator: str, every: int, **settings: int) -> dict:
    """An evaluator on pictures of unseen makers."""
    ring = {"fn": "intern_jax.data.sources.cut:open_ring", "ring": "new_maker", "split": "test"}
    return {
        "fn": f"intern_jax.stages.{evaluator}",
        "every": every,
        "data": {
            "new_maker": {
                "sources": (ring | {"workdir": WORLD} | settings,),
                "transform": {"fn": f"{MAKE}.views:eval_classification", "size": SIZE},
            }
        },
    }
