"""Images per second of whole networks, forward and train step, beside PyTorch on the same machine.

    python -m tools.bench.models --torch-python=PATH [--metanet=FOLDER] [--rounds=5] [--seconds=5] [--threads=2]
                                 [--cases=vit_s_16,mn_b4,resnet50] [--sizes=224,64] [--out=FILE.json]
    python -m tools.bench.models --device=gpu --torch-python=PATH [--metanet=FOLDER] [--batch=N] ...

On a CPU float32; on a GPU (MN-B4, MN-B15 and ViT-B/16 at 224 pixels) bfloat16 compute with float32 parameters, torch by
autocast and compiled. AdamW, cross-entropy over 1000 classes, random pictures; BatchNorm with batch statistics in the
train step, and running ones in the forward. Each side is a process of its own that works only while it is asked to;
sides take turns (A-B-A-B ...), figures are medians over rounds. Before its rounds each side also times a matrix product
(2048 x 2048, on a GPU 8192 x 8192, in the compute's dtype): the share of that ceiling is 2 x multiply-adds x images/s
over it, a train step counted as three forwards. --out has the share of a known device's data sheet peak too (`raw`).

--torch-python: a Python with torch and timm (ViT-S/16 and ResNet-50 are timm's); by default that of `make peers`.
--metanet: a checkout of the public gv-benchmark, whose MetaNet is imported with stand-ins for mmcv and mmcls,
unfrozen, its BatchNorm training; without it mn_b4 has no peer. Both sides have huge pages, as the command has, unless
GLIBC_TUNABLES says otherwise (glibc.malloc.hugetlb=0). torch runs channels-last for the convolutional networks, which
is faster for it here.
"""

import argparse
import contextlib
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import pathlib
import statistics
import sys
import types
from collections.abc import Callable
from typing import Any

from intern_jax.processes import memory
from tools import peers
from tools.bench import measured
from tools.bench.measured import Cell, Measured
from tools.bench.turns import Turn, answer, rate_of, rate_of_calls, use_cores

CLASSES, RATE = 1000, 1e-4
BATCHES: dict[str, dict[int | str, int]] = {
    "cpu": {224: 16, 64: 64},
    "gpu": {"mn_b4": 256, "mn_b15": 32, "vit_b_16": 256},
}
CEILING = {"cpu": 2048, "gpu": 8192}
CASES = {"cpu": "vit_s_16,mn_b4,resnet50", "gpu": "vit_b_16,mn_b4,mn_b15"}
SIZES = {"cpu": "224,64", "gpu": "224"}
# Ours -> timm's; the public MetaNet's settings are below.
PEERS = {
    "vit_s_16": "vit_small_patch16_224",
    "vit_b_16": "vit_base_patch16_224",
    "resnet50": "resnet50",
}
METANETS = {
    "mn_b4": {
        "repeats": [2, 3, 6, 6, 6, 12],
        "channels": [32, 64, 128, 192, 192, 384],
        "mtb_type": 4,
    },
    "mn_b15": {
        "repeats": [4, 6, 12, 12, 12, 24],
        "channels": [128, 256, 512, 768, 768, 1536],
        "mtb_type": 15,
        "head_dim": 64,
        "stem_dim": 96,
        "drop_path_rate": 0.3,
    },
}

COLUMNS = (
    {"name": "network"},
    {"name": "size"},
    {"name": "mode"},
    {"name": "ours", "unit": "images/s", "digits": 1},
    {"name": "torch", "unit": "images/s", "digits": 1},
    {"name": "ours / torch", "digits": 2},
    {"name": "ours / ceiling", "style": "percent"},
    {"name": "torch / ceiling", "style": "percent"},
)


def main() -> None:
    """Every case in turn; prints a Markdown row as soon as one is done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    peers.add_flag(parser)
    parser.add_argument("--metanet", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--cases")
    parser.add_argument("--sizes")
    parser.add_argument("--batch", type=int, help="pictures of a batch, instead of a case's own")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--side", choices=("ours", "torch"))
    parser.add_argument("--mode", choices=("forward", "train"))
    args = parser.parse_args()
    args.cases = args.cases or CASES[args.device]
    args.sizes = args.sizes or SIZES[args.device]
    if args.side:
        serve(args)
        return
    given, results = measured.provenance("tools.bench.models"), []
    print(measured.head(COLUMNS))
    for name in args.cases.split(","):
        for size in map(int, args.sizes.split(",")):
            for mode in ("forward", "train"):
                results.append(compare(args, name, size, mode))
                print(measured.line(row(results[-1]), COLUMNS), flush=True)
    if args.out:
        table(results, args, given).write(args.out)


def compare(args: argparse.Namespace, name: str, size: int, mode: str) -> dict[str, Any]:
    """One network, size and mode: both sides' images per second, in turns."""
    pythons = {"ours": sys.executable}
    if args.torch_python and (name in PEERS or args.metanet):
        pythons["torch"] = str(args.torch_python)
    before = os.getloadavg()
    asked = [f"--mode={mode}", f"--cases={name}", f"--sizes={size}", f"--threads={args.threads}"]
    asked += [f"--device={args.device}", f"--batch={batch_of(args, name, size)}"]
    asked += [f"--metanet={args.metanet}"] if args.metanet else []
    env = {"JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda"}[args.device], **memory.huge_pages()}
    # One card for both: neither may take all of its memory.
    env["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.45"
    sides = {
        side: Turn(python, __file__, [f"--side={side}", *asked], env)
        for side, python in pythons.items()
    }
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, process in sides.items():
            rates[side].append(process.round(args.seconds))
    facts = {side: process.close() for side, process in sides.items()}
    medians = {side: statistics.median(found) for side, found in rates.items()}
    operations = 2 * facts["ours"]["multiply_adds"] * (3 if mode == "train" else 1)
    return {
        "network": name,
        "size": size,
        "mode": mode,
        "device": args.device,
        "batch": batch_of(args, name, size),
        "images_per_second": {side: round(rate, 2) for side, rate in medians.items()},
        "rounds": {side: [round(rate, 2) for rate in found] for side, found in rates.items()},
        "of_ceiling": {
            side: round(operations * rate / facts[side]["ceiling"], 3)
            for side, rate in medians.items()
        },
        "of_data_sheet": {
            side: round(operations * rate / facts["ours"]["peak"], 3)
            for side, rate in medians.items()
            if facts["ours"]["peak"]
        },
        "facts": facts,
        "load_average": {"before": before, "after": os.getloadavg()},
    }


def batch_of(args: argparse.Namespace, name: str, size: int) -> int:
    """Pictures of a batch: as asked, or the case's own."""
    own: dict[int | str, int] = BATCHES[args.device]
    return args.batch or own.get(size) or own.get(name, 64)


def row(result: dict[str, Any]) -> list[Cell]:
    """A result as a row of the table; the limits are the least and the greatest of the rounds."""
    rates, shares = result["images_per_second"], result["of_ceiling"]
    cells: list[Cell] = [result["network"], result["size"], result["mode"]]
    for side in ("ours", "torch"):
        found = result["rounds"].get(side)
        limits = {"low": min(found), "high": max(found), "n": len(found)} if found else {}
        cells.append({"median": rates[side], **limits} if found else None)
    cells.append(rates["ours"] / rates["torch"] if "torch" in rates else None)
    return [*cells, shares["ours"], shares.get("torch")]


def table(
    results: list[dict[str, Any]], args: argparse.Namespace, given: dict[str, Any]
) -> Measured:
    """The measurement of `compare`'s results."""
    facts = results[0]["facts"]
    dtype = {"cpu": "float32", "gpu": "bfloat16"}[args.device]
    note = f"{dtype}, {args.threads} threads, {args.rounds} rounds of {args.seconds:g} s by turns"
    named = (("ours", "jax"), ("torch", "torch"))
    versions = [f"{name} {facts[side][name]}" for side, name in named if side in facts]
    batches = ", ".join(f"{r['network']} {r['size']}: {r['batch']}" for r in results[::2])
    if args.device == "gpu":
        given = given | {"machine": measured.machine(facts["ours"]["device"])}
    return Measured(
        title=f"Whole networks beside PyTorch on a {args.device.upper()}",
        key=3,
        columns=COLUMNS,
        rows=[row(result) for result in results],
        interval="least and greatest of the rounds",
        notes=[f"{note}; {', '.join(versions)}.", f"Pictures of a batch: {batches}."],
        raw={"results": results},
        **given,
    )


def serve(args: argparse.Namespace) -> None:
    """Answer each line of seconds by a rate."""
    name, size = args.cases, int(args.sizes)
    if args.device == "cpu":
        use_cores(args.threads)
    make = {"ours": ours, "torch": torch_side}[args.side]
    step, facts = make(name, size, args.mode == "train", args)
    step()
    answer(facts, lambda seconds: rate_of_calls(step, seconds, args.batch))


def ours(name: str, size: int, train: bool, args: argparse.Namespace) -> tuple[Callable, dict]:
    """(one step, facts) of this package's network."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax.core import meta

    from intern_jax.models import zoo
    from intern_jax.ops.macs import multiply_adds
    from intern_jax.train.progress import meter

    dtype = {"cpu": "float32", "gpu": "bfloat16"}[args.device]
    network, batch, side = (
        zoo.build({"name": name, "dtype": dtype}),
        args.batch,
        CEILING[args.device],
    )
    images = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    labels = jax.random.randint(jax.random.key(1), (batch,), 0, CLASSES)
    variables = dict(
        meta.unbox(jax.jit(lambda key: network.init(key, images, train=False))(jax.random.key(2)))
    )
    params = {"backbone": variables.pop("params")}
    width = network.features
    params["head"] = jax.random.normal(jax.random.key(3), (width, CLASSES)) * 0.02

    def logits(params, extra, train):
        out, extra = network.apply(
            {"params": params["backbone"], **extra},
            images,
            train=train,
            mutable=list(extra) if train else [],
            rngs={"dropout": jax.random.key(4)},
        )
        return out["pooled"] @ params["head"], extra

    tx = optax.adamw(RATE)

    def update(state):
        params, extra, moments = state

        def loss(params):
            found, new = logits(params, extra, True)
            terms = optax.losses.softmax_cross_entropy_with_integer_labels(found, labels)
            return terms.mean(), new

        grads, new = jax.grad(loss, has_aux=True)(params)
        updates, moments = tx.update(grads, moments, params)
        return optax.apply_updates(params, updates), new, moments

    ones = jnp.ones((side, side), dtype)
    product = jax.jit(jnp.matmul)
    once = jax.make_jaxpr(lambda p: logits(p, variables, False)[0])(params)
    facts = {
        "ceiling": rate_of(side, lambda: product(ones, ones).block_until_ready()),
        "peak": meter.peak(),
        "device": jax.devices()[0].device_kind,
        "multiply_adds": multiply_adds(once) / batch,
        "jax": jax.__version__,
    }
    if not train:
        forward = jax.jit(lambda p, e: logits(p, e, False)[0])
        return lambda: forward(params, variables).block_until_ready(), facts
    step = jax.jit(update, donate_argnums=0)
    state = [(params, variables, tx.init(params))]

    def one():
        state[0] = step(state[0])
        jax.block_until_ready(state[0])

    return one, facts


def torch_side(
    name: str, size: int, train: bool, args: argparse.Namespace
) -> tuple[Callable, dict]:
    """The peer: runs in another environment, so nothing of this package is imported."""
    import torch

    torch.set_num_threads(args.threads)
    gpu, side = args.device == "gpu", CEILING[args.device]
    device = torch.device("cuda" if gpu else "cpu")
    wait = torch.cuda.synchronize if gpu else lambda: None
    narrow = functools.partial(torch.autocast, "cuda", torch.bfloat16, enabled=gpu)
    with contextlib.redirect_stdout(sys.stderr):  # some of them print
        network, width = peer(name, size, args)
    model = torch.nn.Sequential(network, torch.nn.Linear(width, CLASSES)).to(device)
    images = torch.randn(args.batch, 3, size, size, device=device)
    labels = torch.randint(0, CLASSES, (args.batch,), device=device)
    if not name.startswith("vit"):
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    ones = torch.ones(side, side, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    facts = {
        "ceiling": rate_of(side, lambda: (torch.mm(ones, ones), wait())),
        "torch": torch.__version__,
    }
    model.train(train)
    for module in model.modules():
        module.training = train  # the public MetaNet's own train() freezes
    run = torch.compile(model) if gpu else model
    if not train:

        def forward():
            with torch.inference_mode(), narrow():
                run(images)
            wait()

        return forward, facts
    optimizer = torch.optim.AdamW(model.parameters(), RATE, fused=gpu)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with narrow():
            loss = torch.nn.functional.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()
        wait()

    return step, facts


def peer(name: str, size: int, args: argparse.Namespace) -> tuple[Any, int]:
    """(network to pooled features, their number)."""
    import torch

    if importlib.util.find_spec("torchvision") is None:  # imported by the peers, and not used here
        StandIn("torchvision")
    if name in METANETS:
        network = public_metanet(args.metanet, size, METANETS[name])
    else:
        import timm

        settings = {"img_size": size} if name.startswith("vit") else {}
        network = timm.create_model(PEERS[name], num_classes=0, **settings)
    with torch.inference_mode():
        return network, network(torch.zeros(2, 3, size, size)).shape[1]


def public_metanet(folder: pathlib.Path, size: int, settings: dict[str, Any]) -> Any:
    """The authors' MetaNet, trainable, from a checkout of gv-benchmark."""
    import torch

    def begin(self, *_):
        torch.nn.Module.__init__(self)

    base = type("BaseBackbone", (torch.nn.Module,), {"__init__": begin})
    registry = types.SimpleNamespace(register_module=lambda: lambda cls: cls)
    StandIn("mmcls", BaseBackbone=base, BACKBONES=registry)
    StandIn("mmcv", _BatchNorm=torch.nn.modules.batchnorm._BatchNorm)
    path = folder / "gvbenchmark" / "cls" / "models" / "backbones" / "metanet.py"
    spec = importlib.util.spec_from_file_location("public_metanet", path)
    assert spec and spec.loader  # there for whatever ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Trainable(torch.nn.Module):
        """Its forward without the authors' no_grad."""

        def __init__(self):
            super().__init__()
            self.network = module.MetaNet(
                expansion=[1, 4, 6, 3, 2, 5], frozen_stages=-1, input_size=size, **settings
            )

        def forward(self, images):
            return self.network.forward_features(images)

    return Trainable()


class _Names(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Anything(types.ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds any module below `package`: for what the peers import and do not use here."""

    def __init__(self, package: str, **names: Any):
        self.package, self.names = package, names
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, _path: Any, _target: Any = None) -> Any:
        if name.split(".")[0] != self.package:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__.update(self.names)


if __name__ == "__main__":
    main()
