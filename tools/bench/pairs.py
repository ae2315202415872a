"""Image-text training on a CPU: pairs per second beside open_clip, and the contrast in chunks beside the whole matrix.

    python -m tools.bench.pairs [--torch-python=PATH] [--rounds=5] [--seconds=10] [--steps-out=FILE.json]
                                [--contrast-out=FILE.json]

Train steps: a CLIP of ViT-Ti/16 at 64 pixels and a text tower of 4 layers, 128 pairs of random pictures and texts of 77
tokens, of which 8 to 31 are words, AdamW, float32, two threads. `clip` is CLIP's loss alone in this package,
`open_clip` the same model with open_clip's loss in PyTorch, the others are the amateur's sets of losses. All but one of
this package read texts to the first of LENGTHS that holds a batch's longest. The contrast: values and gradients of
symmetric InfoNCE on one thread. Each side is a process of its own, they take turns, figures are medians over rounds.
--torch-python: a Python with open_clip; by default that of `make peers`, and without either that side is left out.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

from intern_jax.processes import memory
from tools import peers
from tools.bench import measured
from tools.bench.measured import Column, Measured
from tools.bench.turns import Turn, answer, rate_of_calls, use_cores

ROWS, SIDE, CONTEXT, WORDS, EMBED = 128, 64, 77, 49_408, 256
TEXT = {"width": 256, "heads": 4, "layers": 4}
VIT = {"width": 192, "depth": 12, "heads": 3, "patch": 16}
LENGTHS = (16, 32, 48)
SETS = ("clip", "views", "self_supervised", "declip")
PADDED = "clip, texts of 77 tokens"
PEER = "open_clip"
CONTRASTS = [(4096, 512), (16_384, 512)]

STEPS: tuple[Column, ...] = (
    {"name": "step"},
    {"name": "pairs per second", "digits": 1},
    {"name": "over open_clip", "digits": 2},
    {"name": "cost over CLIP's loss", "digits": 2},
)
CONTRAST: tuple[Column, ...] = (
    {"name": "pairs"},
    {"name": "width"},
    {"name": "whole matrix", "unit": "s", "digits": 2},
    {"name": "chunks", "unit": "s", "digits": 2},
    {"name": "time, chunks / whole", "digits": 2},
    {"name": "whole matrix, temporary memory", "unit": "MB", "digits": 0},
    {"name": "chunks, temporary memory", "unit": "MB", "digits": 0},
    {"name": "memory, whole / chunks", "digits": 1},
    {"name": "gradients apart, relative"},
)


def main() -> None:
    """Both tables; prints a Markdown row as soon as one is done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    peers.add_flag(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--steps-out", type=pathlib.Path)
    parser.add_argument("--contrast-out", type=pathlib.Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        serve(*json.loads(args.one))
        return
    given = measured.provenance("tools.bench.pairs")
    for make, out in ((contrast, args.contrast_out), (steps, args.steps_out)):
        table = Measured(**make(args), **given)
        print(table.markdown(), flush=True)
        if out:
            table.write(out)


def steps(args: argparse.Namespace) -> dict[str, Any]:
    """Train steps, by turns."""
    sides = [*SETS, PADDED, *([PEER] if args.torch_python else [])]
    rates = by_turns(args, [["step", side] for side in sides])[0]
    found = dict(zip(sides, rates, strict=True))
    peer, clip = found.get(PEER), found["clip"]
    rows = [[s, r, r / peer if peer else None, clip / r] for s, r in found.items()]
    notes = [
        f"ViT-Ti/16 at {SIDE} pixels, a text tower of {TEXT['layers']} layers and width {TEXT['width']}, "
        f"{WORDS:,} words, batch {ROWS}.",
        "CLIP's loss sees one view and one text of a pair, the others two of each; declip searches 65,536 "
        "neighbours.",
        "Texts have 8 to 31 words. The text tower reads 32 tokens of them here (text.lengths); that of open_clip, and "
        f"of the row that says so, {CONTEXT}.",
        f"Medians of {args.rounds} rounds of {args.seconds:g} s by turns, two threads.",
    ]
    title = "Train steps on pairs, beside open_clip"
    return {"title": title, "columns": STEPS, "rows": rows, "notes": notes}


def contrast(args: argparse.Namespace) -> dict[str, Any]:
    """Values and gradients of InfoNCE, by turns."""
    rows = []
    for count, width in CONTRASTS:
        cases = [["contrast", form, count, width] for form in ("whole", "chunks")]
        rates, facts = by_turns(args, cases, {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"})
        whole, chunks = (1 / rate for rate in rates)
        large, small = (fact["temporary"] / 1e6 for fact in facts)
        apart = facts[1]["apart"]
        rows.append(
            [
                count,
                width,
                whole,
                chunks,
                chunks / whole,
                large,
                small,
                large / small,
                f"{apart:.1e}",
            ]
        )
    notes = ["Symmetric InfoNCE of random unit rows at scale 14, float32, one core; by turns."]
    title = "The contrast of a large batch, in chunks and as one matrix"
    return {"title": title, "key": 2, "columns": CONTRAST, "rows": rows, "notes": notes}


def by_turns(
    args: argparse.Namespace, cases: list[list], env: dict[str, str] | None = None
) -> tuple[list[float], list[dict[str, Any]]]:
    """The median rate of each case, and what its process said of itself."""
    sides = []
    for case in cases:
        python = str(args.torch_python) if PEER in case else sys.executable
        more = memory.huge_pages() | (env or {})
        sides.append(Turn(python, __file__, [f"--one={json.dumps(case)}"], more))
    rates: list[list[float]] = [[] for _ in sides]
    for _ in range(args.rounds):
        for found, side in zip(rates, sides, strict=True):
            found.append(side.round(args.seconds))
    return [statistics.median(found) for found in rates], [side.close() for side in sides]


def serve(kind: str, side: str, *shape: int) -> None:
    """Answer each line of seconds by what is made per second."""
    use_cores(1 if kind == "contrast" else 2)
    if kind == "contrast":
        call, facts = contrast_call(side, *shape)
        answer(facts, lambda seconds: rate_of_calls(call, seconds))
        return
    call = torch_step() if side == PEER else jax_step(side)
    call()
    answer({}, lambda seconds: rate_of_calls(call, seconds, ROWS))


def random_pairs() -> dict[str, Any]:
    """Two views and two texts of each pair, and masked words."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, ROWS, SIDE, SIDE, 3), dtype=np.uint8)
    tokens = rng.integers(1, WORDS - 2, (2, ROWS, CONTEXT)).astype(np.int32)
    length = rng.integers(8, 32, (ROWS, 1))
    place = np.arange(CONTEXT)[None]
    tokens = np.where(place[None] < length[None], tokens, 0)
    tokens[:, place == length] = WORDS - 1
    masked = (place < length) & (rng.random((ROWS, CONTEXT)) < 0.15)
    targets = np.where(masked, tokens[0], -1).astype(np.int32)
    fields = {"image1": images[0], "image2": images[1], "tokens1": tokens[0], "tokens2": tokens[1]}
    return fields | {"targets1": targets}


def jax_step(side: str) -> Callable[[], Any]:
    """One train step of this package."""
    import jax

    from intern_jax.core import mesh as mesh_lib
    from intern_jax.stages.amateur import Amateur
    from intern_jax.train import optim
    from intern_jax.train import state as state_lib
    from intern_jax.train.step import make_step

    batch = {"pairs": random_pairs()}
    backbone = {"name": "vit_ti_16", "image_size": SIDE, "patch_bias": False, "pre_norm": True}
    text = {"vocab_size": WORDS, "context": CONTEXT, "activation": "gelu", **TEXT}
    if side != PADDED:
        text["lengths"] = LENGTHS
    losses = "clip" if side == PADDED else side
    stage = Amateur(backbone=backbone, text=text, embed_dim=EMBED, losses=losses)
    tx = optim.build({"name": "adamw", "weight_decay": 0.1})
    init, _ = state_lib.create(stage, tx, mesh_lib.make_mesh(data=1), batch, ema=False)
    state, step = init(jax.random.key(0)), make_step(stage, tx)
    held = {"state": state}

    def call() -> None:
        held["state"], out = step(held["state"], {}, batch, jax.random.key(1), {"main": 1e-3})
        jax.block_until_ready(out)

    return call


def torch_step() -> Callable[[], Any]:
    """One train step of open_clip, in another environment: nothing of this package but its draws is imported."""
    import open_clip
    import torch
    from open_clip.model import CLIP

    torch.set_num_threads(2)
    rows = random_pairs()
    vision = {"layers": VIT["depth"], "width": VIT["width"], "head_width": 64}
    model = CLIP(
        embed_dim=EMBED,
        vision_cfg=vision | {"patch_size": VIT["patch"], "image_size": SIDE},
        text_cfg={"context_length": CONTEXT, "vocab_size": WORDS, **TEXT},
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    loss = open_clip.ClipLoss()
    images = torch.from_numpy(rows["image1"]).permute(0, 3, 1, 2).float() / 255 - 0.5
    texts = torch.from_numpy(rows["tokens1"]).long()

    def call() -> None:
        optimizer.zero_grad()
        image, text, scale = model(images, texts)
        loss(image, text, scale).backward()
        optimizer.step()

    return call


def contrast_call(form: str, count: int, width: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    """One value and gradient of InfoNCE, with its temporary memory and its distance from the whole form's."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from intern_jax.losses.contrastive import info_nce

    def whole(a: Any, b: Any, scale: Any) -> Any:
        logits = scale * jnp.matmul(a, b.T, precision="highest")
        match = jnp.diagonal(logits)
        rows, columns = (jax.nn.logsumexp(logits, axis=axis) - match for axis in (1, 0))
        return 0.5 * (rows.mean() + columns.mean())

    x = np.random.default_rng(0).normal(size=(2, count, width)).astype(np.float32)
    a, b = x / np.linalg.norm(x, axis=-1, keepdims=True)
    args = (jnp.asarray(a), jnp.asarray(b), jnp.float32(14.0))
    function = jax.value_and_grad(info_nce if form == "chunks" else whole, (0, 1, 2))
    program = jax.jit(function).lower(*args).compile()
    memory = program.memory_analysis()
    facts = {"temporary": memory.temp_size_in_bytes if memory else 0, "apart": 0.0}
    if form == "chunks":
        grads, others = program(*args)[1], jax.jit(jax.grad(whole, (0, 1, 2)))(*args)
        apart = [
            jnp.linalg.norm(g - o) / jnp.linalg.norm(o) for g, o in zip(grads, others, strict=True)
        ]
        facts["apart"] = max(map(float, apart))
    return lambda: jax.block_until_ready(program(*args)), facts


if __name__ == "__main__":
    main()
