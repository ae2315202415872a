"""The losses of image-text pairs by name: what each may ask for, the sets that are known, and a call with what it asks.

Legend: B batch, V small crops of a picture, D embedding size, H SimSiam's width.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import jax

from intern_jax.core import config as config_lib
from intern_jax.core.averages import Average, whole
from intern_jax.core.config import UserError

# What a loss may ask for by name, and the outputs of the network that it takes. Unit embeddings [B,D] of pictures (v),
# texts (u) and texts' nearest neighbours (q), of small crops (vc [V,B,D]); the logarithm of the contrast's scale and
# its bias; SimSiam's predictions (p) and projections (z) [B,H].
COUPLED: dict[str, tuple[str, ...]] = {
    "v1": ("f1",),
    "v2": ("f2",),
    "vc": ("fc",),
    "u1": ("g1",),
    "u2": ("g2",),
    "q1": ("g1", "g2"),
    "q2": ("g1", "g2"),
    "p1": ("p1",),
    "z1": ("z1",),
    "p2": ("p2",),
    "z2": ("z2",),
    "logit_scale": (),
    "logit_bias": (),
}
# The same for losses of single rows: features of masked words with their true ids, and the layer to the vocabulary.
BY_ROW: dict[str, tuple[str, ...]] = {
    "words": ("words",),
    "word_targets": ("word_targets",),
    "word_kernel": ("words",),
    "word_bias": ("words",),
}
OUTPUTS = COUPLED | BY_ROW

_CONTRAST = "intern_jax.losses.contrastive"
_SELF = {
    "simsiam": {"fn": "intern_jax.losses.self_supervised:simsiam"},
    "words": {"fn": "intern_jax.losses.words:masked_words"},
}
_NEIGHBOURS = {"neighbours": {"fn": f"{_CONTRAST}:nearest_neighbour_pairs"}}
# Sets of losses by name, each with its weights. "declip" is the form of DeCLIP's code, where one term holds all four
# pairs of views and texts; "paper" is that of its paper, whose weights are recalled and not verified.
SETS: dict[str, tuple[dict[str, dict[str, Any]], dict[str, float]]] = {
    "clip": ({"clip": {"fn": f"{_CONTRAST}:clip"}}, {}),
    "siglip": ({"clip": {"fn": f"{_CONTRAST}:sigmoid"}}, {}),
    "views": ({"clip": {"fn": f"{_CONTRAST}:clip_pairs"}}, {}),
    "self_supervised": (
        {"clip": {"fn": f"{_CONTRAST}:clip_pairs"}} | _SELF,
        {"clip": 0.4, "simsiam": 0.2, "words": 0.2},
    ),
    "declip": (
        {"clip": {"fn": f"{_CONTRAST}:clip_pairs"}} | _SELF | _NEIGHBOURS,
        {"clip": 0.4, "simsiam": 0.2, "words": 0.2, "neighbours": 0.2},
    ),
    "sigmoid_declip": (
        {"clip": {"fn": f"{_CONTRAST}:sigmoid_pairs"}} | _SELF | _NEIGHBOURS,
        {"clip": 0.4, "simsiam": 0.2, "words": 0.2, "neighbours": 0.2},
    ),
    "paper": (
        {"clip": {"fn": f"{_CONTRAST}:clip"}, "views": {"fn": f"{_CONTRAST}:multi_view"}}
        | _SELF
        | _NEIGHBOURS,
        {"clip": 0.4, "views": 0.2, "simsiam": 0.2, "words": 0.2, "neighbours": 0.2},
    ),
}


class Loss:
    """A loss by name: which of OUTPUTS it asks for, whether it is one of single rows, and a call with those."""

    def __init__(self, term: str, spec: Mapping[str, Any]):
        self.function = config_lib.bind(spec)
        given = set(self.function.keywords)
        parameters = inspect.signature(self.function.func).parameters
        self.names = {name for name in parameters if name in OUTPUTS and name not in given}
        for name, parameter in parameters.items():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            if name not in (*OUTPUTS, *given) and parameter.default is parameter.empty:
                raise UserError(
                    f"stage.losses.{term}: {spec['fn']} asks for '{name}'; give it beside fn, or ask "
                    f"for what the amateur has: {', '.join(OUTPUTS)}"
                )
        self.by_row = bool(self.names & set(BY_ROW))
        both = self.names & set(COUPLED)
        if self.by_row and both:
            raise UserError(
                f"stage.losses.{term}: {spec['fn']} asks for {', '.join(sorted(self.names))}; words are of "
                f"single rows and {', '.join(sorted(both))} of the whole batch, make two losses"
            )

    def __call__(self, outputs: Mapping[str, jax.Array]) -> Average:
        found = self.function(**{name: outputs[name] for name in self.names})
        return found if isinstance(found, Average) else whole(found)


def set_of(
    losses: str | Mapping[str, Mapping[str, Any]],
) -> tuple[Mapping[str, Mapping[str, Any]], dict[str, float]]:
    """The functions of a set of losses by its name, or of losses of one's own, and their weights."""
    if not isinstance(losses, str):
        return losses, {}
    if losses not in SETS:
        near = config_lib.did_you_mean(losses, list(SETS))
        raise UserError(f"stage.losses: no set of losses '{losses}'; {near}")
    specs, weights = SETS[losses]
    return specs, dict(weights)
