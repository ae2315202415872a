"""What distillation adds: one small network, taught by the generalist, by its experts, or by labels alone.

Command:   python -m intern_jax run --config=configs/squeeze.py --workdir=runs/squeeze
Hardware:  two CPU cores, no accelerator
Shows:     a direction: one seed, one draw, the quickstart's rows at 10% of the labels
"""

import ml_collections

from intern_jax.core.config import load_config

STEPS = 300
SAME = 60


def get_config() -> ml_collections.ConfigDict:
    """The quickstart up to its merged experts, then students of one length, which differ in what teaches them."""
    quickstart = load_config("quickstart")
    config = quickstart.copy_and_resolve_references()
    network, start = config.generalist.backbone, {"backbone": None}
    rate = config.expert_cls.train.optim.learning_rate
    students = {
        # The teacher's own network and weights: distillation must cost nothing.
        "same": taught(
            quickstart,
            {"backbone": "generalist", "generalist": "generalist"},
            (SAME, rate / 30),
            backbone=network,
        ),
        "labels": labels(quickstart, start, (STEPS, rate)),
        "taught_by_experts": taught(
            quickstart, start | {"cls": "expert_cls", "dense": "expert_dense"}, (STEPS, rate)
        ),
        "taught": taught(quickstart, start | {"generalist": "generalist"}, (STEPS, rate)),
        # As "taught", but its start is the merged experts.
        "squeezed": taught(
            quickstart, {"backbone": "merged", "generalist": "generalist"}, (STEPS, rate)
        ),
    }
    for name, entry in students.items():
        config[name] = entry
    config.stages = (
        *(s for s in quickstart.stages if s not in ("expert_det", "squeeze")),
        *students,
    )
    del config["expert_det"], config["squeeze"]
    rungs = (*(name for name in students if name != "same"), "merged", "generalist", "same")
    config.benchmark.ladder = {name: {"cls": name, "dense": name} for name in rungs}
    config.benchmark.rungs = rungs
    config.benchmark.scratch = None
    config.benchmark.finetune = None
    config.benchmark.zero_shot = None
    return config


def labels(quickstart, start: dict, length: tuple[int, float]) -> dict:
    """A stage on the generalist's data, by the labels alone."""
    entry = quickstart.generalist.copy_and_resolve_references().to_dict()
    steps, rate = length
    optim = entry["train"]["optim"] | {"learning_rate": rate, "warmup_steps": steps // 20}
    return {
        "stage": {"fn": "intern_jax.stages.expert:Expert"},
        "start": start,
        "data": entry["data"],
        "train": entry["train"] | {"steps": steps, "optim": optim},
    }


def taught(
    quickstart, start: dict, length: tuple[int, float], backbone: dict | None = None
) -> dict:
    """The same by labels and teachers, which are the roles of `start` but its backbone."""
    entry = labels(quickstart, start, length)
    teachers = {role: () for role in start if role != "backbone"}
    imitate = {"teachers": teachers, "logits": True, "hidden": 64}
    entry["stage"] = {"fn": "intern_jax.stages.squeeze:Squeeze", "imitate": imitate}
    return entry if backbone is None else entry | {"backbone": backbone}
