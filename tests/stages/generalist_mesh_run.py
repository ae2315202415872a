"""Generalists of 2, 3 and 4 branches on meshes of 8 forced host devices; prints what was seen as JSON.

Started by test_generalist_mesh.py: the number of devices is fixed before jax starts. With a folder for checkpoints as
argument it trains; else it compares generalists with their experts.
"""

import functools
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import jax  # noqa: E402
import numpy as np  # noqa: E402
from tiny_batches import CONVOLUTIONS, TINY, Fixed, labelled  # noqa: E402

from intern_jax.core import mesh as mesh_lib  # noqa: E402
from intern_jax.models import zoo  # noqa: E402
from intern_jax.stages.generalist import Generalist  # noqa: E402
from intern_jax.train import loop  # noqa: E402
from intern_jax.train.state import unbox  # noqa: E402

WIDE = CONVOLUTIONS | {"channels": (8, 16, 24, 8), "activation": "relu"}
BRANCHES = {
    2: {"cls": TINY, "dense": TINY},  # with attention
    3: {"cls": CONVOLUTIONS, "segmentation": WIDE, "depth": CONVOLUTIONS},
    4: dict(
        zip(
            ("cls", "detection", "segmentation", "depth"),
            (WIDE, CONVOLUTIONS, CONVOLUTIONS, WIDE),
            strict=True,
        )
    ),
}
# Of more branches the first and the last are tried: a program of all takes long to compile.
MAINS = {n: dict([list(found.items())[i] for i in (0, -1)]) for n, found in BRANCHES.items()}
OPTIM = {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1, "schedule": "constant"}
FIRST, LAST = 2, 4


def spec(count: int) -> dict:
    """The generalist of that many branches."""
    return {"name": "generalist", "branches": tuple(BRANCHES[count]), "branch": BRANCHES[count]}


def rows(count: int) -> dict:
    """A batch with a group for each branch but detection's."""
    found = labelled(rows=16)
    if count == 2:
        return found
    dense = found.pop("dense")
    return found | {
        "segmentation": {name: dense[name] for name in ("image", "mask", "source")},
        "depth": {name: dense[name] for name in ("image", "depth", "depth_valid", "source")},
    }


def starts_as_its_experts(count: int, devices: int) -> dict[str, bool]:
    """Whether each branch's outputs are those of its expert, bit for bit, in evaluation and in training."""
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:devices])
    network, rng = zoo.build(spec(count)), np.random.default_rng(0)
    images = rng.normal(size=(16, 32, 32, 3)).astype(np.float32)
    init = functools.partial(network.init, train=False)
    shapes = unbox(jax.eval_shape(init, jax.random.key(0), images))

    def drawn(path, shape):
        names = [str(getattr(part, "key", part)) for part in path]
        if any("transfer" in name for name in names):
            # A path's last scale and shift start at 0; what is before them may be anything.
            module = functools.reduce(lambda arrays, part: arrays[part.key], path[:-2], shapes)
            last = "norm_1" if "norm_1" in module else "norm_0"
            zero = last in names and names[-1] in ("scale", "bias")
            value = np.zeros(shape.shape) if zero else rng.normal(size=shape.shape)
        else:
            value = rng.normal(size=shape.shape) / max(1, np.prod(shape.shape[:-1])) ** 0.5
        value = np.abs(value) + 0.5 if names[-1] == "var" else value
        return value.astype(shape.dtype)

    variables = jax.tree_util.tree_map_with_path(drawn, shapes)
    placed = jax.device_put(variables, mesh_lib.replicated(mesh))
    images = mesh_lib.put_batch(mesh, images)
    experts = {name: zoo.build(b | {"sets": network.sets}) for name, b in MAINS[count].items()}
    same = {}
    for train in (False, True)[: 2 if count == 2 else 1]:
        settings = {"train": train} | ({"mutable": ["batch_stats"]} if train else {})

        @jax.jit
        def ours(variables, images, settings=settings):
            return {n: network.apply(variables, images, task=n, **settings) for n in experts}

        @jax.jit
        def theirs(variables, images, settings=settings):
            own = {n: {c: variables[c][n] for c in variables} for n in experts}
            return {n: net.apply(own[n], images, task=n, **settings) for n, net in experts.items()}

        found = [run(placed, images) for run in (ours, theirs)]
        for name in experts:
            got, wanted = (one[name][0] if train else one[name] for one in found)
            same[f"{name} {'train' if train else 'eval'}"] = all(
                np.array_equal(got[output], wanted[output]) for output in wanted
            )
    return same


def trained(count: int, folder: pathlib.Path) -> dict[str, list[float]]:
    """Losses of the last steps: in one go on one device, and restored on another mesh than the first steps' one."""
    batch, seen = rows(count), {}
    classes = {group: [("a", 5), ("b", 3)] for group in batch if group in ("cls", "dense")}
    classes |= (
        {"segmentation": [("c", 4), ("d", 3)], "depth": [("e", 0), ("f", 0)]} if count > 2 else {}
    )
    if count == 2:
        classes["dense"] = [("c", 4), ("d", 3)]
    heads = (
        {}
        if count == 2
        else {"segmentation": {"settings": {"width": 8}}, "depth": {"settings": {"width": 8}}}
    )

    def run(
        shape: tuple[int, int, int], steps: int, workdir: pathlib.Path | None
    ) -> loop.FitResult:
        stage = Generalist(spec(count), classes, dense_width=8, heads=heads)
        mesh = mesh_lib.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])
        cfg = {"optim": OPTIM, "log_every": 1, "checkpoint_every": FIRST, "steps": steps}
        return loop.fit(stage, Fixed(batch), cfg, mesh, workdir)

    whole = run((1, 1, 1), LAST, None)
    run((2, 2, 2), FIRST, folder)
    again = run((8, 1, 1), LAST, folder)
    for name, result in (("whole", whole), ("again", again)):
        seen[name] = [row["loss"] for row in result.history][-(LAST - FIRST) :]
    seen["steps"] = [int(again.state.step)]
    return seen


def main() -> None:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if len(sys.argv) > 1:
        folder = pathlib.Path(sys.argv[1])
        print(json.dumps({count: trained(count, folder / str(count)) for count in BRANCHES}))
        return
    print(
        json.dumps(
            {
                f"{count} branches, {devices} devices": starts_as_its_experts(count, devices)
                for count in BRANCHES
                for devices in (1, 8)
            }
        )
    )


if __name__ == "__main__":
    main()
