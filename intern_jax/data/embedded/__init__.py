"""The embedded data: real images with real labels that ship with the package (see CARD.md).

`load(name, **kwargs)` opens a source by name. Pictures are decoded once and kept in memory as
read-only uint8 arrays. All sources are random-access, thread-safe and picklable.
"""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from intern_jax.core.config import UserError, checked_by
from intern_jax.data.embedded import crowds, scenes, tables

PRETRAINING: dict[str, Callable[..., Any]] = {
    "emoji_pairs": tables.emoji_pairs,
    "clipart_pairs": tables.clipart_pairs,
    "scene_pairs": scenes.scene_pairs,
    "emoji_groups": tables.emoji_groups,
    "clipart_pool": tables.clipart_pool,
    "fashion_pool": tables.fashion_pool,
    "sprite_scenes": scenes.sprite_scenes,
    "crowd_scenes": scenes.crowd_scenes,
    "sprite_boxes": scenes.sprite_boxes,
    "person_crowds": crowds.person_crowds,
    "room_pool": tables.room_pool,
    "room_boxes": tables.room_boxes,
}
BENCHMARK: dict[str, Callable[..., Any]] = {
    "emoji_style": tables.emoji_style,
    "emoji_style_group": tables.emoji_style_group,
    "emoji_concept": tables.emoji_concept,
    "clipart_leaf": tables.clipart_leaf,
    "fashion": tables.fashion,
    "furniture": tables.furniture,
    "rooms_seg": tables.rooms_seg,
    "rooms_depth": tables.rooms_depth,
    "sprites_seg": scenes.sprites_seg,
    "sprites_det": scenes.sprites_det,
    "rooms_det": tables.rooms_det,
    "crowd_det": crowds.crowd_det,
}
NAMES = {**PRETRAINING, **BENCHMARK}


def check_arguments(name: str, **kwargs: Any) -> None:
    """Raise UserError for a name or arguments that `load` would refuse, without opening a source."""
    if name not in NAMES:
        near = difflib.get_close_matches(str(name), NAMES, 3) or sorted(NAMES)
        raise UserError(f"embedded source {name!r}: unknown; known: {', '.join(near)}")
    known = inspect.signature(NAMES[name]).parameters
    for argument in kwargs:
        if argument not in known:
            raise UserError(
                f"{name}/{argument}: unknown argument; known: {', '.join(known) or 'none'}"
            )
    if name in BENCHMARK:
        tables.refuse_split(name, kwargs.get("split", ""))


@checked_by(check_arguments)
def load(name: str, **kwargs: Any) -> Any:
    """The embedded source of that name. Benchmark sources take split="train" or "test".

    Scenes also take seed, size (pixels) and length. Unknown names or arguments are a UserError.
    """
    check_arguments(name, **kwargs)
    return NAMES[name](**kwargs)
