"""The transform of image-text pairs: two views and two texts of one concept, small crops, and targets of masked words.

A config lists what happens to a view and to a text:

    {"fn": "intern_jax.data.make.pairs:PairViews", "size": 224, "tokenizer": "declip", "context": 77, "mask": 0.15,
     "view1": ({"fn": "intern_jax.data.make.augment:random_resized_crop", "scale": (.2, 1.), "ratio": (3/4, 4/3)}, ...),
     "view2": None,  # as view1
     "text2": ({"fn": "intern_jax.data.make.captions:eda"},),
     "crops": {"count": 6, "size": 96, "view": ({"fn": ...}, ...)}}

| field of a row | array | there with |
|---|---|---|
| image1, image2 | uint8 [S,S,3] | |
| tokens1, tokens2 | int32 [L] | |
| targets1 | int32 [L]: the id where a token of tokens1 was chosen, -1 elsewhere | `mask` above 0 |
| crops | uint8 [K,s,s,3] | `crops` |
| window1, window2 | float32 [4]: x1, y1, x2, y2 of a view, as fractions of the picture | `geometry` |
| flip1, flip2 | bool: whether the view is mirrored | `geometry` |

Legend: S, s sides in pixels, L tokens, K crops.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from intern_jax.core.config import UserError, bind, checked_by, formatted
from intern_jax.data.make import augment, image_ops
from intern_jax.data.make import text as tokenizer_lib
from intern_jax.data.make.augment import MOCO_V2, View
from intern_jax.data.make.views import whole_view
from intern_jax.data.schema.sample import Sample

Arrays = dict[str, Any]
Specs = Sequence[Mapping[str, Any]]
Operations = tuple[Callable[..., Any], ...]

CROPS = ("count", "size", "view")
# DeCLIP's edits of its second text.
EDA: tuple[dict[str, Any], ...] = ({"fn": "intern_jax.data.make.captions:eda"},)


def check_arguments(**given: Any) -> None:
    """UserError for settings that PairViews would refuse, without a sample."""
    PairViews(**{"size": 1, **given})


@formatted(2)
@checked_by(check_arguments)
class PairViews:
    """Two augmented views and two texts of a sample with texts, as a row; the module tells its fields.

    The views show two pictures of the concept if the sample has several (image and views), or else one picture twice.
    tokens1 is the first text, after `text1` and `mask`; tokens2 is the first text after `text2`. A generator of its own
    makes the draws of each view and crop, so a change of one of these lists leaves the other pictures as they were.
    """

    def __init__(
        self,
        size: int,
        tokenizer: str = "embedded",
        context: int = 16,
        view1: Specs = MOCO_V2,
        view2: Specs | None = None,
        crops: Mapping[str, Any] | None = None,
        text1: Specs = (),
        text2: Specs = EDA,
        mask: float = 0.0,
        geometry: bool = False,
        train: bool = True,
        scaled: bool = True,
    ):
        """`view1` and `view2` list operations (augment.py), `text1` and `text2` edits (captions.py).

        `crops` is {"count": K, "size": s, "view": operations}; they show both pictures in turn. `mask` is the share of
        words to be chosen for masked language modelling (DeCLIP: 0.15). With `geometry`, all views show one picture.
        Without `train` nothing is random: whole pictures, the first text, no word masked. `scaled`: if every view
        begins with a random crop, a large JPEG is decoded smaller in training, though no smaller than any view; False
        decodes it whole.
        """
        self.scaled = scaled
        self.size, self.context, self.train, self.geometry = size, context, train, geometry
        self.words, self.mask = tokenizer_lib.load(tokenizer), mask
        if not 0 <= mask <= 1:
            raise UserError(f"mask: {mask!r}; give the share of words, such as 0.15, or 0 for none")
        if mask and self.words.mask is None:
            raise UserError(
                f"mask: tokenizer '{tokenizer}' has no mask token; take 'declip' or a trained one"
            )
        self.views = (bound(view1, "view1"), bound(view1 if view2 is None else view2, "view2"))
        self.texts = (bound(text1, "text1", 3), bound(text2, "text2", 3))
        self.crops = None if crops is None else _Crops(crops)

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Arrays:
        """The row of a sample. Raises UserError for a sample without texts."""
        if not sample.get("texts"):
            key = sample.get("key", "sample")
            raise UserError(f"{key}/texts: missing; take a source that has them")
        return self._drawn(sample, image_ops.drawing(rng)) if self.train else self._whole(sample)

    def reduction(self, width: int, height: int, rng: np.random.Generator) -> int:
        """How many times smaller a JPEG may be decoded for all views that are drawn from this generator."""
        if not self.train or not self.scaled:
            return 1
        keys, sides = self._keys(rng), (width, height)
        views = [(operations, self.size) for operations in self.views]
        if self.crops is not None:
            views += [(self.crops.operations, self.crops.size)] * self.crops.count
        return min(
            augment.reduction(operations, sides, size, _generator(key))
            for (operations, size), key in zip(views, keys, strict=True)
        )

    def _keys(self, rng: np.random.Generator) -> np.ndarray:
        """The state of a generator for each view: uint64 [V,4]."""
        count = 0 if self.crops is None else self.crops.count
        return rng.integers(0, 1 << 64, (2 + count, 4), np.uint64)

    def _drawn(self, sample: Sample, rng: np.random.Generator) -> Arrays:
        keys = self._keys(rng)
        pictures = [sample["image"], *sample.get("views", ())]
        first, second = two(len(pictures), rng)
        if self.geometry:
            second = first
        chosen = [View.of(pictures[first], self.size)]
        chosen.append(chosen[0] if first == second else View.of(pictures[second], self.size))
        views = [
            _made(view, operations, key)
            for view, operations, key in zip(chosen, self.views, keys[:2], strict=True)
        ]
        row: Arrays = {"image1": views[0].pixels(), "image2": views[1].pixels()}
        row["tokens1"], row["tokens2"] = (
            self._tokens(sample["texts"], edits, rng) for edits in self.texts
        )
        if self.mask:
            row["tokens1"], row["targets1"] = masked(row["tokens1"], self.words, self.mask, rng)
        if self.crops is not None:
            row["crops"] = self.crops(chosen, keys[2:])
        if self.geometry:
            for i, view in enumerate(views, start=1):
                row[f"window{i}"] = np.asarray(view.window, np.float32)
                row[f"flip{i}"] = np.bool_(view.flipped)
        return row

    def _whole(self, sample: Sample) -> Arrays:
        image = whole_view(sample["image"], self.size)
        tokens = self.words.encode(sample["texts"][0], self.context)
        row: Arrays = {"image1": image, "image2": image, "tokens1": tokens, "tokens2": tokens}
        if self.mask:
            row["targets1"] = np.full(self.context, -1, np.int32)
        if self.crops is not None:
            small = whole_view(sample["image"], self.crops.size)
            row["crops"] = np.repeat(small[None], self.crops.count, axis=0)
        if self.geometry:
            row |= {name: np.asarray(augment.WHOLE, np.float32) for name in ("window1", "window2")}
            row |= {name: np.bool_(False) for name in ("flip1", "flip2")}
        return row

    def _tokens(
        self, texts: Sequence[str], edits: Operations, rng: np.random.Generator
    ) -> np.ndarray:
        text = texts[0][: tokenizer_lib.MOST_CHARACTERS]
        for edit in edits:
            text = edit(text, texts, rng)
        return self.words.encode(text, self.context)


class _Crops:
    """The small views of a row: uint8 [K,s,s,3] of pictures and a key for each."""

    def __init__(self, given: Mapping[str, Any]):
        missing, unknown = sorted(set(CROPS) - set(given)), sorted(set(given) - set(CROPS))
        if missing or unknown:
            wrong = f"{missing[0]}: missing" if missing else f"{unknown[0]}: unknown"
            raise UserError(f"crops.{wrong}; give {', '.join(CROPS)}")
        self.count, self.size = given["count"], given["size"]
        for name in ("count", "size"):
            if not isinstance(given[name], int) or given[name] < 1:
                raise UserError(f"crops.{name}: {given[name]!r}; give a whole number from 1 on")
        self.operations = bound(given["view"], "crops.view")

    def __call__(self, pictures: Sequence[View], keys: np.ndarray) -> np.ndarray:
        out = np.empty((self.count, self.size, self.size, 3), np.uint8)
        for i, key in enumerate(keys):
            view = pictures[i % len(pictures)]._replace(size=self.size)
            out[i] = _made(view, self.operations, key).pixels()
        return out


def bound(specs: Specs, where: str, arguments: int = 2) -> Operations:
    """The functions of a list of specs, with their settings. `arguments` is how many others they are called with."""
    if isinstance(specs, Mapping | str) or not isinstance(specs, Sequence):
        raise UserError(f"{where}: {specs!r}; give a list of operations, each with its fn")
    made = []
    for i, spec in enumerate(specs):
        try:
            made.append(bind(spec, arguments))
        except UserError as error:
            raise UserError(f"{where}[{i}]: {error}") from None
    return tuple(made)


class _Key(ISeedSequence):
    """256 random bits that are a generator's state as they are. To seed one from a number takes seven times as long."""

    def __init__(self, state: np.ndarray):
        self._state = state

    def generate_state(self, _words: int, _dtype: Any = np.uint32) -> np.ndarray:
        """The state uint64 [4], which is what PCG64 asks for."""
        return self._state


def _generator(key: np.ndarray) -> np.random.Generator:
    state: Any = _Key(key)
    return np.random.Generator(np.random.PCG64(state))


def _made(view: View, operations: Operations, key: np.ndarray) -> View:
    rng = _generator(key)
    for operation in operations:
        view = operation(view, rng)
    return view


def masked(
    tokens: np.ndarray, words: tokenizer_lib.Tokenizer, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, targets) int32 [L] for masked language modelling (BERT, arXiv 1810.04805, as DeCLIP takes it).

    Each token between start and end is chosen with probability `share`. Of the chosen, 80% become the mask token, 10%
    a random ordinary one, 10% stay. `targets` is the id where a token was chosen, and -1 elsewhere.
    """
    count = int(tokens.argmax()) - 1  # the end token has the largest id
    chosen = [i for i, u in enumerate(rng.random(count).tolist(), start=1) if u < share]
    out, targets = tokens.copy(), np.full(len(tokens), -1, np.int32)
    first, last = words.ordinary.start, words.ordinary.stop
    for i, (kind, other) in zip(chosen, rng.random((len(chosen), 2)).tolist(), strict=True):
        targets[i] = tokens[i]
        if kind < 0.8:
            out[i] = words.mask
        elif kind < 0.9:
            out[i] = first + int(other * (last - first))
    return out, targets


def two(count: int, rng: np.random.Generator) -> tuple[int, int]:
    """Two different numbers below `count`, in random order; (0, 0) of one."""
    if count == 1:
        return 0, 0
    u = rng.random(2).tolist()
    first = int(u[0] * count)
    return first, (first + 1 + int(u[1] * (count - 1))) % count
