"""Tables from the arrays of our MetaNet, UniNet and generalist to their names in the authors' networks.

The published names are flat: "blocks.7.b2.3.fc1.weight". The names in a block depend on its operator. UniNet counts its
down-sampling modules as blocks. "conv" and "mixer" were never published, so their names are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from intern_jax.models.metanet import block_operators
from intern_jax.models.uninet import block_kinds
from intern_jax.weights.published.torch_names import Place, leaf_place

ENDS = {
    "stem.0": "stem_conv",
    "stem.1": "stem_norm",
    "head.0": "head_conv",
    "head.1": "head_norm",
}

_MLP = {
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp_expand",
    "mlp.fc2": "mlp_project",
    "gamma_2": "mlp_scale/gamma",
    "residual.1": "shortcut",
}
_ATTENTION = _MLP | {
    "pos_embed": "position",
    "norm1": "attention_norm",
    "attn": "attention",
    "attn.qkv": "attention/qkv",
    "attn.proj": "attention/project",
    "gamma_1": "attention_scale/gamma",
}
_GLOBAL = {
    "q.0": "depthwise",
    "q.1": "depthwise_norm",
    "q.2": "project",
    "q_norm": "query_norm",
    "kv_norm": "key_norm",
    "kv": "key_value",
    "proj": "attention_project",
}
_LOCAL = {
    "downsample.0": "depthwise",
    "downsample.1": "depthwise_norm",
    "downsample.2": "project",
}

# The shortcut of a sampler starts with a max-pool only if it has a stride ("@1" means that it has none).
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
    "l_dsm": _LOCAL | {"residual.1": "shortcut"},
    "l_dsm@1": _LOCAL | {"residual.0": "shortcut"},
    "lg_dsm": _GLOBAL | {"residual.1": "shortcut"},
    "lg_dsm@1": _GLOBAL | {"residual.0": "shortcut"},
    "conv": {"conv": "conv", "norm": "norm"},
    "mixer": _MLP
    | {
        "norm1": "token_norm",
        "tokens.fc1": "token_expand",
        "tokens.fc2": "token_project",
        "tokens.residual.1": "token_shortcut",
        "gamma_1": "token_scale/gamma",
    },
}

_LINEAR = (
    *("attention/qkv", "attention/project", "key_value", "attention_project"),
    *("mlp_expand", "mlp_project", "token_expand", "token_project"),
)
_DEPTHWISE = ("depthwise", "position")

# The generalist: its two branches, and "trans.MAIN.AUX.layerT.convs.layerS.I".
BRANCHES = {"gv_global": "cls", "gv_patch": "dense"}
TRANSFER = {"0": "conv_0", "1": "norm_0", "3": "conv_1", "4": "norm_1"}


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in table.items()}


_OUR_ENDS, _OUR_BRANCHES, _OUR_TRANSFER = (_inverse(t) for t in (ENDS, BRANCHES, TRANSFER))
_OUR_BLOCKS = {name: _inverse(table) for name, table in BLOCKS.items()}


def metanet_blocks(network: Any) -> list[str]:
    """For each block of a MetaNet in order, the name of its table in BLOCKS."""
    return block_operators(network)


def uninet_blocks(network: Any) -> list[str]:
    """For each block and sampler of a UniNet in order, the name of its table in BLOCKS."""
    strides = iter(network.strides[1:])
    return [
        f"{kind}@1" if kind.endswith("_dsm") and next(strides) == 1 else kind
        for kind in block_kinds(network)
    ]


def place(path: str, blocks: Sequence[str]) -> Place:
    """The published place of our array at that path; `blocks` names the table of every block.

    KeyError for a path that such a network does not have.
    """
    module, _, leaf = path.split("/", 1)[1].rpartition("/")
    first, _, inside = module.partition("/")
    table, prefix = _OUR_ENDS, ""
    if first.startswith("blocks_"):
        index = int(first.removeprefix("blocks_"))
        table, prefix, module = _OUR_BLOCKS[blocks[index]], f"blocks.{index}.", inside
    if f"{module}/{leaf}" in table:
        return Place(prefix + table[f"{module}/{leaf}"])
    if leaf == "temperature":
        return Place(f"{prefix}{table[module]}.temperature", "per_head")
    kind = "linear" if module in _LINEAR else "depthwise" if module in _DEPTHWISE else "conv"
    return leaf_place(prefix + table[module], leaf, kind)


def generalist_place(path: str, branch: Callable[[str], Place]) -> Place:
    """The same as `place` for the two-branch network; `branch` places the arrays of a single branch."""
    collection, first, inside = path.split("/", 2)
    if not first.startswith("transfer_"):
        name, kind = branch(f"{collection}/{inside}")
        return Place(f"backbone.{_OUR_BRANCHES[first]}.{name}", kind)
    main = _OUR_BRANCHES[first.removeprefix("transfer_")]
    auxiliary = next(name for name in BRANCHES if name != main)
    link, module, leaf = inside.split("/")
    target, source = link.split("_from_")
    module = f"trans.{main}.{auxiliary}.{target}.convs.{source}.{_OUR_TRANSFER[module]}"
    return leaf_place(module, leaf, "conv")
