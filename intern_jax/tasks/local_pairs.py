"""The amateur's network with a local branch: pictures with hidden parts, and prototypes at every position.

Legend: B batch, S side in pixels, h, w positions of a map, K prototypes.
"""

from collections.abc import Mapping, Set

import jax
import jax.numpy as jnp

from intern_jax.core.config import UserError
from intern_jax.models.backbone import route
from intern_jax.models.heads.prototypes import Prototypes
from intern_jax.models.layers.basic import linear_init
from intern_jax.tasks.pairs import ImageText

VIEWS = ("1", "2")
LAYERS = ("layer1", "layer2", "layer3", "layer4")


class LocalImageText(ImageText):
    """ImageText with prototypes at every position of a map [B,h,w,K], also of views with hidden parts.

    In a share of the pictures (`masked`), a share of the positions of `layer`, drawn between the two of `hidden`,
    shows a learned colour instead. So it serves every backbone.
    """

    layer: str = "layer3"
    prototypes: int = 4096
    hidden_width: int = 512
    bottleneck: int = 128
    masked: float = 0.5
    hidden: tuple[float, float] = (0.1, 0.5)

    def setup(self) -> None:
        super().setup()
        self.local_head = Prototypes(
            self.prototypes, self.hidden_width, self.bottleneck, self.dtype
        )
        self.mask_color = self.param("mask_color", linear_init, (3,))

    def __call__(
        self, pairs: Mapping[str, jax.Array], wanted: Set[str], train: bool
    ) -> dict[str, jax.Array]:
        out = super().__call__(pairs, wanted | {f"m{view}" for view in VIEWS}, train)
        if self.is_initializing():
            self.hidden_scores(pairs, out["m1"].shape[1:3], train)
        return out

    def hidden_scores(
        self, pairs: Mapping[str, jax.Array], grid: tuple[int, ...], train: bool
    ) -> dict[str, jax.Array]:
        """Prototypes [B,h,w,K] of each view, with drawn positions of the grid (h, w) hidden."""
        out = {}
        for view in VIEWS:
            images = self._hide(pairs[f"image{view}"], grid)
            found = self.backbone(images, train=train, task=route(self.backbone, "pairs"))[
                self.layer
            ]
            out[view] = self.local_head(found)
        return out

    def patches(self, maps: jax.Array) -> jax.Array:
        """Prototypes [B,h,w,K] of a map [B,h,w,C]."""
        return self.local_head(maps)

    def _hide(self, images: jax.Array, grid: tuple[int, ...]) -> jax.Array:
        """The images with drawn positions of a grid in the learned colour."""
        hidden = draw(self.make_rng("mask"), len(images), grid, self.masked, self.hidden)
        sides = [-(-size // count) for size, count in zip(images.shape[1:3], grid, strict=True)]
        pixels = jnp.repeat(jnp.repeat(hidden, sides[0], axis=1), sides[1], axis=2)
        pixels = pixels[:, : images.shape[1], : images.shape[2], None]
        return jnp.where(pixels, self.mask_color.astype(images.dtype)[None, None, None], images)


def draw(
    key: jax.Array, rows: int, grid: tuple[int, ...], masked: float, share: tuple[float, float]
) -> jax.Array:
    """Hidden positions, bool [rows,*grid]: in a part `masked` of the rows, a share of the positions between two."""
    whether, how_many, which = jax.random.split(key, 3)
    count = grid[0] * grid[1]
    drawn = jax.random.uniform(how_many, (rows,), minval=share[0], maxval=share[1])
    drawn = jnp.where(jax.random.uniform(whether, (rows,)) < masked, drawn, 0.0)
    noise = jax.random.uniform(which, (rows, count))
    rank = jnp.argsort(jnp.argsort(noise, axis=1), axis=1)
    return (rank < jnp.round(drawn * count)[:, None]).reshape(rows, *grid)


def check_settings(
    layer: str,
    prototypes: int,
    masked: float,
    hidden: tuple[float, float],
    temperatures: tuple[float, float],
    centre_momentum: float,
) -> None:
    """Refuse settings of the local sub-stage outside their range."""
    if layer not in LAYERS:
        raise UserError(f"stage.layer: {layer!r}; give one of {', '.join(LAYERS)}")
    right = {
        "prototypes": prototypes >= 1,
        "masked": 0 <= masked <= 1,
        "hidden": len(hidden) == 2 and 0 <= hidden[0] <= hidden[1] <= 1,
        "temperatures": len(temperatures) == 2 and min(temperatures) > 0,
        "centre_momentum": 0 <= centre_momentum < 1,
    }
    remedies = {
        "prototypes": "give at least 1",
        "masked": "give a share of the pictures, 0 to 1",
        "hidden": "give two shares of the positions, the lower one first",
        "temperatures": "give the student's and the teacher's, both above 0",
        "centre_momentum": "give 0 to below 1, such as 0.9",
    }
    for name, fits in right.items():
        if not fits:
            raise UserError(f"stage.{name}: {locals()[name]!r}; {remedies[name]}")
