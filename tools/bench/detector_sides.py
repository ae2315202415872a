"""The sides of tools/bench/detectors.py: this package's train step and inference, torchvision's, and a matrix product.

A side is (call, facts): one call makes one step, or the boxes of one batch. Each runs in a process of its own, so that
only what it needs is imported. Legend: B pictures, M objects, K classes.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

OBJECTS, ROOM, CLASSES = 6, 10, 80  # objects of a picture, room for them, and classes as in COCO
OPTIM = {"name": "sgd", "learning_rate": 1e-3, "momentum": 0.9, "l2": 1e-4}
CEILING = {"cpu": 2048, "gpu": 8192}  # side of the matrices

Side = tuple[Callable[[], Any], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Case:
    """What is timed: a detector on a backbone, at a canvas of (height, width) pixels; `batch` pictures at once."""

    head: str
    backbone: str
    size: tuple[int, int]
    mode: str  # "train" or "inference"
    batch: int
    device: str = "cpu"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    threads: int = 2

    @property
    def dtype(self) -> str:
        """The compute's dtype; parameters are float32."""
        return {"cpu": "float32", "gpu": "bfloat16"}[self.device]

    @property
    def canvas(self) -> str:
        """The canvas in words."""
        height, width = self.size
        return f"{height}" if height == width else f"{height} x {width}"


def rows(case: Case) -> dict[str, Any]:
    """A batch of noise: image uint8 [B,H,W,3]; boxes, labels and masks [B,M]; extent, the whole canvas."""
    import numpy as np

    rng = np.random.default_rng(0)
    height, width = case.size
    low = rng.uniform(0, 0.6, (case.batch, ROOM, 2))
    sides = np.array([width, height])
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.4, low.shape)], -1) * [*sides, *sides]
    there = np.broadcast_to(np.arange(ROOM) < OBJECTS, (case.batch, ROOM))
    return {
        "image": rng.integers(0, 256, (case.batch, height, width, 3)).astype(np.uint8),
        "boxes": boxes.astype(np.float32),
        "box_labels": rng.integers(0, CLASSES, there.shape).astype(np.int32),
        "box_valid": np.array(there),
        "box_ignore": np.zeros_like(there),
        "extent": np.tile(np.array(case.size, np.int32), (case.batch, 1)),
    }


# --- this package ---------------------------------------------------------------------------------


def programs(case: Case) -> tuple[Any, Any, Any]:
    """(FineTune's stage, its programs as the training loop builds them, the mesh of one device)."""
    import jax

    from intern_jax.core import mesh as mesh_lib
    from intern_jax.stages.finetune import FineTune
    from intern_jax.train import settings
    from intern_jax.train.programs import Programs

    head = {"dtype": case.dtype} | case.settings
    backbone = {"name": case.backbone, "dtype": case.dtype}
    stage = FineTune(backbone, "detection", CLASSES, case.head, head)
    mesh = mesh_lib.make_mesh(data=1, devices=jax.devices()[:1])
    cfg = settings.check({"optim": OPTIM})
    return stage, Programs.build(stage, cfg, mesh, {"task": rows(case)}), mesh


def lowered(case: Case) -> tuple[Any, Any, Any]:
    """(the traced program of a case, its lowering, the programs): a train step, or all boxes of a batch."""
    import jax

    stage, made, mesh = programs(case)
    batch = rows(case)
    if case.mode == "train":
        traced = made.step.trace(*made.arguments(mesh, {"task": batch}, {}))
    else:

        def boxes(params, extra, batch):
            return stage.predict(params, extra, batch)["out"]["detections"]

        traced = jax.jit(boxes).trace(made.abstract.params, made.abstract.extra, batch)
    return traced, traced.lower(), made


def compiled(case: Case) -> tuple[Any, dict[str, Any], Any]:
    """(the compiled program of a case, facts of it, the programs).

    Facts: seconds to trace and compile by the clock and of CPU; bytes of arguments and temporaries; `operations`,
    FLOPs of its products and convolutions per picture, where RoIAlign gathers and adds.
    """
    import jax

    from intern_jax.topology import hlo

    clock, cpu = time.perf_counter(), time.process_time()
    traced, lower, made = lowered(case)
    program = lower.compile()
    spent = {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu}
    held = program.memory_analysis()
    # The accelerators' RoIAlign multiplies by matrices that are almost all 0: no work that a detector needs.
    text = traced.lower(lowering_platforms=("cpu",)).compiler_ir("hlo").as_hlo_text()
    facts = {
        "compile": spent,
        "bytes": {
            "arguments": held.argument_size_in_bytes,
            "temporaries": held.temp_size_in_bytes,
        },
        "operations": hlo.cost(hlo.read(text)).flops / case.batch,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
    return program, facts, made


def ours(case: Case) -> Side:
    """One step of FineTune, or its boxes of one batch."""
    program, facts, made = compiled(case)
    return call_of(case, program, made), facts


def call_of(case: Case, program: Any, made: Any) -> Callable[[], Any]:
    """A call of a compiled program on a fresh state; a train step goes on from the last."""
    import jax
    import jax.numpy as jnp

    from intern_jax.core import keys

    state, batch = made.init(keys.key_for(0, "init")), jax.device_put(rows(case))
    if case.mode != "train":
        return lambda: program(state.params, state.extra, batch).block_until_ready()
    key, rates = keys.key_for(0, "train"), dict.fromkeys(made.groups, jnp.float32(1e-3))
    states = [state]

    def step() -> Any:
        states[0], scalars = program(states[0], {}, {"task": batch}, key, rates)
        return jax.block_until_ready(scalars)

    return step


def product(case: Case) -> Side:
    """A product of two matrices in the compute's dtype: the ceiling. `flops` are those of a call."""
    import jax
    import jax.numpy as jnp

    side = CEILING[case.device]
    ones, run = jnp.ones((side, side), case.dtype), jax.jit(jnp.matmul)
    return lambda: run(ones, ones).block_until_ready(), {"flops": 2 * side**3}


# --- torchvision ----------------------------------------------------------------------------------


def torch_side(case: Case) -> Side:
    """torchvision's Faster R-CNN with all layers and their BatchNorm in training."""
    import torch
    import torchvision

    torch.set_num_threads(case.threads)
    gpu = case.device == "gpu"
    device = torch.device("cuda" if gpu else "cpu")
    network = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        min_size=min(case.size),
        max_size=max(case.size),
    )
    network = network.to(device).to(memory_format=torch.channels_last)
    batch = {name: torch.from_numpy(value) for name, value in rows(case).items()}
    images = [x.permute(2, 0, 1).float().div(255).to(device) for x in batch["image"]]
    targets = [
        {"boxes": boxes[:OBJECTS].to(device), "labels": 1 + labels[:OBJECTS].long().to(device)}
        for boxes, labels in zip(batch["boxes"], batch["box_labels"], strict=True)
    ]
    facts = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    facts["compiled_operators"] = compiled_operators()

    def narrow() -> Any:
        return torch.autocast("cuda", torch.bfloat16, enabled=gpu)

    def wait() -> None:
        if gpu:
            torch.cuda.synchronize()

    def boxes() -> None:
        with torch.inference_mode(), narrow():
            network(images)
        wait()

    optimizer = torch.optim.SGD(
        network.parameters(), OPTIM["learning_rate"], OPTIM["momentum"], weight_decay=OPTIM["l2"]
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with narrow():
            losses = network(images, targets)
        sum(losses.values()).backward()
        optimizer.step()
        wait()

    network.train(case.mode == "train")
    return (step if case.mode == "train" else boxes), facts


def compiled_operators() -> bool:
    """Whether torchvision's wheel has compiled suppression and RoIAlign; without them, put others in their place."""
    import torchvision
    from torchvision.extension import _has_ops

    if _has_ops():
        return True
    align: Any = sys.modules["torchvision.ops.roi_align"]
    align._roi_align = align._roi_align.__wrapped__  # which would be compiled for minutes

    torchvision.ops.boxes.nms = greedy_nms
    return False


def greedy_nms(boxes: Any, scores: Any, threshold: float) -> Any:
    """torchvision's suppression for wheels that lack the compiled form: indices of the kept boxes, the surest first."""
    import torch
    import torchvision

    order, kept = scores.argsort(descending=True, stable=True), []
    overlap = torchvision.ops.box_iou(boxes, boxes)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for i in order.tolist():
        if alive[i]:
            kept.append(i)
            alive &= ~(overlap[i] > threshold)
    return torch.tensor(kept, dtype=torch.long)


SIDES: dict[str, Callable[[Case], Side]] = {"ours": ours, "torch": torch_side, "product": product}
