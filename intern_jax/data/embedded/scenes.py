"""Scenes of embedded emoji, composed at load time (data/sources/scenes.py)."""

import functools
from collections.abc import Iterator

import numpy as np

from intern_jax.data.embedded.packs import Embedded, pack
from intern_jax.data.embedded.tables import emoji_rows, refuse_split, words
from intern_jax.data.sources.scenes import BoxesOf, Cut, Scenes, cut


class Sprites(Embedded):
    """Emoji cut-outs, cropped to their visible part; resized ones are cached."""

    def __init__(self, concept_splits: tuple[str, ...], unseen_style: bool):
        self.bank = (concept_splits, unseen_style)
        index = pack("emoji").index
        self.rows = emoji_rows(concept_splits, unseen_style)
        facts = [index["concepts"][index["concept"][r]] for r in self.rows]
        self.names = [f["label"] for f in facts]
        groups = sorted({c["group"] for c in index["concepts"].values()})
        self.groups = tuple(map(words, groups))
        self.group = np.asarray([groups.index(f["group"]) for f in facts], np.int64)
        self.selection = repr(self.bank)
        self._cut = functools.lru_cache(1 << 14)(self._resize)

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self):
        return sprites, self.bank

    def cut(self, sprite: int, height: int) -> Cut:
        """(premultiplied colour uint16 [h, w, 3], alpha uint16 [h, w, 1]); longer side = height."""
        return self._cut(sprite, height)

    def _resize(self, sprite: int, height: int) -> Cut:
        return cut(pack("emoji").array(self.rows[sprite]), height)

    def pictures(self) -> Iterator[tuple[str, np.ndarray]]:
        """(key, picture) of each sprite."""
        store = pack("emoji")
        for row in self.rows:
            yield store.keys[row], store.array(row)

    def fingerprint(self) -> str:
        """A digest of the emoji's pack."""
        return pack("emoji").fingerprint


@functools.cache
def sprites(concept_splits: tuple[str, ...], unseen_style: bool) -> Sprites:
    """The sprites of some concepts, made once per process."""
    return Sprites(concept_splits, unseen_style)


POOL = (("pool",), False)


def scene_pairs(seed: int = 0, size: int = 64, length: int = 20_000) -> Scenes:
    """Scenes of pool sprites with a caption of names and relations."""
    return Scenes("scene_pairs", "pairs", sprites(*POOL), seed, size, length)


def sprite_scenes(seed: int = 0, size: int = 64, length: int = 20_000) -> Scenes:
    """Two to five pool sprites: mask of emoji groups, boxes."""
    return Scenes("sprite_scenes", "segmentation", sprites(*POOL), seed, size, length)


def crowd_scenes(seed: int = 0, size: int = 128, length: int = 20_000) -> Scenes:
    """Ten to forty tiny pool sprites: boxes and mask."""
    return Scenes("crowd_scenes", "detection", sprites(*POOL), seed, size, length, crowd=True)


def sprites_seg(split: str, size: int = 64, length: int | None = None) -> Scenes:
    """Scenes of sprites in the unseen 3-D style; test concepts are unseen in every style."""
    test = refuse_split("sprites_seg", split) == "test"
    bank = (("train", "test"), True) if test else (("pool",), True)
    return Scenes(
        f"sprites_seg/{split}",
        "segmentation",
        sprites(*bank),
        7 + test,
        size,
        length or (500 if test else 1000),
    )


def sprite_boxes(
    seed: int = 0, size: int = 64, length: int = 20_000, crowd: bool = False
) -> BoxesOf:
    """Scenes of pool sprites for detection, two to five or in a crowd ten to forty: boxes of emoji groups."""
    name = "sprite_boxes"
    made = Scenes(name, "detection", sprites(*POOL), seed, size, length, crowd, hidden=True)
    return BoxesOf(made, name)


def sprites_det(split: str, size: int = 64, length: int | None = None) -> BoxesOf:
    """Boxes of sprites in the unseen 3-D style; test concepts are unseen in every style."""
    name, bank, seed, length = bank_of("sprites_det", split, length)
    made = Scenes(name, "detection", bank, seed, size, length, hidden=True)
    return BoxesOf(made, name)


def bank_of(name: str, split: str, length: int | None) -> tuple[str, Sprites, int, int]:
    """(name, sprites, seed, length) of the scenes of a benchmark's split."""
    test = refuse_split(name, split) == "test"
    bank = (("train", "test"), True) if test else (("pool",), True)
    return f"{name}/{split}", sprites(*bank), 11 + test, length or (500 if test else 1000)
