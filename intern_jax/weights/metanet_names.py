"""Where an array of a published (PyTorch) MetaNet lives in ours: names as data, one layout rule.

The published names are flat: "blocks.7.b2.3.fc1.weight". A block's names depend on its operator.
"""

from collections.abc import Mapping, Sequence

import numpy as np

ENDS = {
    "stem.0": "stem_conv",
    "stem.1": "stem_norm",
    "head.0": "head_conv",
    "head.1": "head_norm",
}

_ATTENTION = {
    "pos_embed": "position",
    "norm1": "attention_norm",
    "attn": "attention",
    "attn.qkv": "attention/qkv",
    "attn.proj": "attention/project",
    "gamma_1": "attention_scale/gamma",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp_expand",
    "mlp.fc2": "mlp_project",
    "gamma_2": "mlp_scale/gamma",
    "residual.1": "shortcut",
}

BLOCKS: dict[str, dict[str, str]] = {
    "mbconv": {
        "b1.0": "expand_norm",
        "b1.1": "expand_conv",
        "b1.2": "middle_norm",
        "b2.0": "depthwise",
        "b2.1": "depthwise_norm",
        "b2.3.fc1": "squeeze/reduce",
        "b2.3.fc2": "squeeze/expand",
        "b2.4": "project",
        "b2.5": "project_norm",
        "residual.1": "shortcut",
    },
    "fused": {
        "b1.0": "expand_norm",
        "b1.1": "expand_conv",
        "b1.2": "middle_norm",
        "b2.0.fc1": "squeeze/reduce",
        "b2.0.fc2": "squeeze/expand",
        "b2.1": "project",
        "b2.2": "project_norm",
        "residual.1": "shortcut",
    },
    "sa": _ATTENTION,
    "xca": _ATTENTION,
}

# The generalist: its two branches, and "trans.MAIN.AUX.layerT.convs.layerS.I".
BRANCHES = {"gv_global": "cls", "gv_patch": "dense"}
TRANSFER = {"0": "conv_0", "1": "norm_0", "3": "conv_1", "4": "norm_1"}


def our_name(torch_name: str, operators: Sequence[str]) -> str:
    """Our path, collection first ("params/blocks_7/squeeze/reduce/kernel"), of one published name.

    `operators` holds the operator of every block in order (`models.metanet.block_operators`); a
    name that is not MetaNet's raises KeyError.
    """
    head, _, leaf = torch_name.rpartition(".")
    if head in ENDS:
        return _with_leaf(ENDS[head], leaf)
    kind, index, *rest = torch_name.split(".")
    if kind != "blocks" or int(index) >= len(operators):
        raise KeyError(torch_name)
    table, inside = BLOCKS[operators[int(index)]], ".".join(rest)
    block = f"blocks_{index}"
    if inside in table:
        return f"params/{block}/{table[inside]}"
    module, _, leaf = inside.rpartition(".")
    if module not in table:
        raise KeyError(torch_name)
    return _with_leaf(f"{block}/{table[module]}", leaf)


def our_generalist_name(torch_name: str, operators: Sequence[str], task: str | None = None) -> str:
    """`our_name` for the two-branch network.

    A published file holds one BatchNorm set: `task` names it; None is for a network without sets.
    """
    name = torch_name.removeprefix("model.")
    kind, rest = name.split(".", 1)
    if kind == "backbone":
        branch, inside = rest.split(".", 1)
        collection, path = our_name(inside, operators).split("/", 1)
        prefix = BRANCHES[branch]
    elif kind == "trans":
        main, _, target, _, source, index, leaf = rest.split(".")
        collection, path = _with_leaf(TRANSFER[index], leaf).split("/", 1)
        prefix = f"transfer_{BRANCHES[main]}/{target}_from_{source}"
    else:
        raise KeyError(torch_name)
    module, _, leaf = path.rpartition("/")
    if task and "norm" in module and not module.endswith(("attention_norm", "mlp_norm")):
        path = f"{module}/{task}/{leaf}"
    return f"{collection}/{prefix}/{path}"


def _with_leaf(module: str, leaf: str) -> str:
    if leaf in ("running_mean", "running_var"):
        return f"batch_stats/{module}/{leaf.removeprefix('running_')}"
    if leaf == "weight":
        leaf = "scale" if "norm" in module.rsplit("/", 1)[-1] else "kernel"
    return f"params/{module}/{leaf}"


def our_layout(value: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Re-order a published array to ours of `shape`: inputs before outputs, channels last.

    OIHW -> HWIO, (out, in) -> (in, out), then a reshape that only splits or drops axes (1x1
    kernels, heads).
    """
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    elif value.ndim == 2:
        value = value.T
    return value.reshape(shape)


def to_ours(
    state: Mapping[str, np.ndarray], names: Mapping[str, str], shapes: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Flat {our path: array} of a flat published state.

    `names` maps published names to our paths, `shapes` our paths to shapes.
    """
    return {ours: our_layout(state[torch], shapes[ours]) for torch, ours in names.items()}
