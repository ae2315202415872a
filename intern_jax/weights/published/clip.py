"""CLIP files: what stands beside the image tower, and what a file cannot tell.

open_clip's and OpenAI's files hold the text tower beside the image tower "visual.", or below "text.", and the scale of
the contrast. A file tells every size but the number of heads, which have 64 channels in all of CLIP's text towers. It
does not tell QuickGELU from GELU.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core import tree
from intern_jax.core.config import UserError, did_you_mean
from intern_jax.models import zoo
from intern_jax.models.clip_resnet import ClipResNet
from intern_jax.weights.published import recognise
from intern_jax.weights.published.torch_names import (
    Place,
    Rule,
    float32,
    place_by_rules,
    published_shape,
    to_ours,
    to_published,
)
from intern_jax.weights.text_tower import TextTower

IMAGE, TEXT = "visual.", "text."
HEAD_CHANNELS = 64
VOCABULARY = 49_408
# What OpenAI's own files hold beside the weights; all of their networks have QuickGELU.
OPENAI = ("input_resolution", "context_length", "vocab_size")
# Names that hold nothing which a network of ours lacks.
KNOWN = (*OPENAI, "attn_mask", "logit_scale", "logit_bias")
ACTIVATIONS = {
    "quick_gelu": "OpenAI's, MetaCLIP's and DFN's",
    "gelu": "LAION's and DataComp's",
}
_ATTENTION = r"transformer.resblocks.\1.attn"
_RULES: tuple[Rule, ...] = (
    ("text/token_embedding", "token_embedding.weight"),
    ("text/position_embedding", "positional_embedding"),
    (r"text/blocks_(\d+)/attention_norm", r"transformer.resblocks.\1.ln_1"),
    (r"text/blocks_(\d+)/qkv/kernel", rf"{_ATTENTION}.in_proj_weight", "linear"),
    (r"text/blocks_(\d+)/qkv/bias", rf"{_ATTENTION}.in_proj_bias"),
    (r"text/blocks_(\d+)/project", rf"{_ATTENTION}.out_proj", "linear"),
    (r"text/blocks_(\d+)/mlp_norm", r"transformer.resblocks.\1.ln_2"),
    (r"text/blocks_(\d+)/mlp_expand", r"transformer.resblocks.\1.mlp.c_fc", "linear"),
    (r"text/blocks_(\d+)/mlp_project", r"transformer.resblocks.\1.mlp.c_proj", "linear"),
    ("text/final_norm", "ln_final"),
)
# open_clip keeps a projection without bias as an array [C,D], and one with bias as a linear layer.
_ARRAY: Rule = ("text/projection/kernel", "text_projection")
_LAYER: Rule = ("text/projection", "text_projection", "linear")


def told_activation(
    state: Mapping[str, np.ndarray],
    model: Mapping[str, Any],
    given: str | None,
    published: str | None = None,
) -> str:
    """The activation of a CLIP file's towers: that of OpenAI's files, or what the caller or publisher says.

    UserError if nobody says it, and for two that differ.
    """
    said = [value for value in (given, model.get("activation")) if value is not None]
    for value in said:
        if value not in ACTIVATIONS:
            near = did_you_mean(str(value), list(ACTIVATIONS))
            raise UserError(f"activation: no {value!r} in CLIP; {near}")
    said = [*([published] if published else []), *said]
    ends = {name.rpartition(".")[2] for name in state}
    if ends.issuperset(OPENAI):
        said.insert(0, "quick_gelu")
    if len(set(said)) > 1:
        raise UserError(f"activation: {said[1]} is given, and it has {said[0]}; give {said[0]}")
    if not said:
        ways = " or ".join(f"--activation={name} ({whose})" for name, whose in ACTIVATIONS.items())
        raise UserError(f"activation: a CLIP file does not tell it; add {ways}")
    return said[0]


def with_activation(model: Mapping[str, Any], activation: str) -> dict[str, Any]:
    """The spec with its activation written out; CLIP's ResNets have ReLU, and only their text tower another."""
    if isinstance(zoo.build({"name": model["name"]}), ClipResNet):
        return {name: value for name, value in model.items() if name != "activation"}
    return {**model, "activation": activation}


def text_root(state: Mapping[str, np.ndarray], prefix: str) -> str | None:
    """The text before the names of the text tower beside an image tower at `prefix`; None if there is none."""
    outer = prefix.removesuffix(IMAGE)
    roots = (outer, outer + TEXT)
    found = (root for root in roots if f"{root}token_embedding.weight" in state)
    return next(found, None)


def read_text(
    state: Mapping[str, np.ndarray],
    prefix: str,
    size: int,
    activation: str,
    heads: int | None = None,
) -> tuple[TextTower, set[str]] | None:
    """The text tower beside an image tower at `prefix` that embeds in `size` numbers, and the names used; None if none.

    UserError if arrays are missing or have other shapes, or if the file has arrays that such a tower lacks.
    """
    root = text_root(state, prefix)
    if root is None:
        return None
    settings = _settings(state, root, size, activation, heads)
    outer = prefix.removesuffix(IMAGE)
    params: dict[str, Any] = {"logit_scale": _scalar(state, f"{outer}logit_scale")}
    used = {f"{outer}logit_scale"}
    if f"{outer}logit_bias" in state:
        params["logit_bias"] = _scalar(state, f"{outer}logit_bias")
        used.add(f"{outer}logit_bias")
    # DeCLIP's vocabulary has one id more, for masked words.
    tokenizer = "declip" if settings["vocab_size"] == VOCABULARY + 1 else "clip"
    tower = TextTower(settings, params, tokenizer)
    flat = {}
    for path, shape in tower.shapes(size).items():
        if not path.startswith("text/"):
            continue
        place = _placer(settings)(path)
        name = root + place.name
        if name not in state:
            raise UserError(f"{name}: missing; the text tower is incomplete")
        wanted = published_shape(shape, place.kind)
        if state[name].shape != wanted:
            raise UserError(
                f"{name}: shape {list(state[name].shape)}, a text tower of {settings['layers']} layers, "
                f"{settings['width']} channels and {size} outputs has {list(wanted)}"
            )
        flat[path] = to_ours(float32(name, state[name]), shape, place.kind)
        used.add(name)
    return dataclasses.replace(tower, params=params | tree.unflatten(flat)), used


def check_unused(names: Sequence[str], prefix: str, root: str | None, model: str) -> None:
    """Refuse a CLIP file with an array that our towers lack, because without it they would answer otherwise."""
    inside = tuple({prefix, *([] if root is None else [root])})
    for name in names:
        if name.startswith(inside) and name.rpartition(".")[2] not in KNOWN:
            why = recognise.parts([name.removeprefix(root or "")])
            raise UserError(
                f"{name}: neither {model} nor CLIP's text tower has such an array"
                f"{f' ({why})' if why else ''}; it is of another network"
            )


def published_text(text: TextTower) -> dict[str, np.ndarray]:
    """The arrays of a text tower under open_clip's names; UserError for one that open_clip has no form of."""
    if "image_projection" in text.params:
        raise UserError(
            "open_clip projects in the image tower, this model after it; write it without the text tower"
        )
    place, out = _placer(text.settings), {}
    for path, value in tree.names(text.params).items():
        if path.startswith("text/"):
            name, kind = place(path)
            out[name] = to_published(np.asarray(value), kind)
        else:
            out[path] = np.asarray(value)
    return out


def _placer(settings: Mapping[str, Any]) -> Callable[[str], Place]:
    last = _LAYER if settings["projection_bias"] else _ARRAY
    rules = (*_RULES, last)
    # The rules are over our paths without their collection.
    return lambda path: place_by_rules(f"params/{path}", rules)


def _settings(
    state: Mapping[str, np.ndarray], root: str, size: int, activation: str, heads: int | None
) -> dict[str, Any]:
    """The settings of the text tower that the shapes of its arrays tell."""
    words, width = _matrix(state, f"{root}token_embedding.weight")
    context, _ = _matrix(state, f"{root}positional_embedding")
    block = re.compile(re.escape(root) + r"transformer\.resblocks\.(\d+)\.")
    depths = [int(found[1]) for found in map(block.match, state) if found]
    if heads is None and width % HEAD_CHANNELS:
        raise UserError(
            f"text_heads: a text tower of {width} channels has no heads of {HEAD_CHANNELS}, as CLIP's "
            "have; give their number, --text_heads=N"
        )
    if heads is not None and (heads < 1 or width % heads):
        raise UserError(f"text_heads: {heads} heads do not divide {width} channels")
    return {
        "vocab_size": words,
        "context": context,
        "width": width,
        "layers": max(depths, default=0) + 1,
        "heads": heads or width // HEAD_CHANNELS,
        "out_dim": size,
        "activation": activation,
        "projection_bias": f"{root}text_projection.bias" in state,
    }


def _matrix(state: Mapping[str, np.ndarray], name: str) -> tuple[int, int]:
    if name not in state or state[name].ndim != 2:
        raise UserError(f"{name}: missing, or no matrix; the text tower is incomplete")
    rows, columns = state[name].shape
    return rows, columns


def _scalar(state: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in state or state[name].size != 1:
        raise UserError(f"{name}: missing, or not one number; the file is no whole CLIP")
    return float32(name, state[name]).reshape(())
