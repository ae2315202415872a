"""Published (PyTorch) names and arrays as ours, one at a time: what tests compare weights/ with, which goes from ours.

Only the tables of names are shared.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from intern_jax.weights.published.metanet_names import BLOCKS, BRANCHES, ENDS, TRANSFER


def our_name(torch_name: str, operators: Sequence[str]) -> str:
    """Our path, collection first ("params/blocks_7/squeeze/reduce/kernel"), of one published name.

    `operators` names the table of every block; a name that is not MetaNet's raises KeyError.
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
