"""A narrow backbone whose last outputs are lifted to a wider teacher's sizes, in training and at inference.

A narrow student cannot hold a wide teacher's features, although these are of low rank. Lift (arXiv 2511.15572) keeps
the student's projector and takes its output as the feature. WideLast, of the same paper, is MetaNet's `wide_last`.
Legend: B batch, H height, W width, C channels, D pooled features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from intern_jax.models import backbone as backbone_lib
from intern_jax.models.backbone import Part
from intern_jax.models.layers.basic import Conv, Dense, Dtype
from intern_jax.models.metanet import MetaNet


class Lifted(nn.Module):
    """A backbone with a linear layer after "pooled" [B,D] and a 1x1 convolution after "layer4" [B,h,w,C].

    The other layers are those of the network inside, which is of class `family` with the settings `of`. `features` is
    D and `channels` is C. `sets` are the BatchNorm sets of the network inside (None: those of `of`).

    Its parameters are under "network/", so a stage that starts from the plain backbone needs a rule, in `graft.add`, or
    in `graft.replace` where heads would be taken that no longer fit:
    [["(params|batch_stats)/backbone/network/(.*)", "backbone/\\\\1/backbone/\\\\2"]].
    """

    of: Mapping[str, Any]
    features: int
    channels: int
    family: Callable[..., nn.Module] = MetaNet
    sets: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.sets is None:
            object.__setattr__(self, "sets", tuple(self.of.get("sets") or ()))
        super().__post_init__()

    def setup(self) -> None:
        self.network = self._inside()
        self.lift_pooled = Dense(self.features)
        self.lift_layer4 = Conv(self.channels, 1, use_bias=True, dtype=self.dtype)

    def _inside(self, **settings: Any) -> Any:
        # A generalist gives sets to all branches.
        given = self.sets and backbone_lib.has_sets(self.family)
        sets = {"sets": tuple(self.sets or ())} if given else {}
        return self.family(**{**self.of, **sets, **settings})

    def networks(self) -> list[Any]:
        """The network inside, as an unbound module."""
        return [self._inside(parent=None)]

    def __call__(
        self, images: jax.Array, train: bool, task: str | None = None
    ) -> dict[str, jax.Array]:
        """The maps and features of the network inside for images [B,H,W,3], with layer4 and "pooled" lifted."""
        out = self.network(images, train, task)
        lifted = {"layer4": self.lift_layer4(out["layer4"])}
        return {**out, **lifted, "pooled": self.lift_pooled(out["pooled"])}

    # --- a generalist's branch --------------------------------------------------------------------

    def level(self, x: jax.Array, level: int, train: bool, task: str | None = None) -> jax.Array:
        """What the network inside makes of its level before; `shown` and `pool` lift that of level 4."""
        return self.network.level(x, level, train, task)

    def linked(self, x: jax.Array, size: Sequence[int]) -> jax.Array:
        """The map that the network inside exchanges."""
        return backbone_lib.linked(self.network, x, size)

    def relinked(self, x: jax.Array, x_BxHxWxC: jax.Array) -> jax.Array:
        """What its next level takes, with another map in it."""
        return backbone_lib.relinked(self.network, x, x_BxHxWxC)

    def shown(self, x: jax.Array, level: int, size: Sequence[int]) -> jax.Array:
        """The output "layerN" of what `level` gave for images of `size`."""
        x = backbone_lib.shown(self.network, x, level, size)
        return self.lift_layer4(x) if level == 4 else x

    def pool(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        """Lifted features [B,D] in at least float32, of what `level` gave for level 4."""
        return self.lift_pooled(self.network.pool(x, train, task))

    # --- what it is -------------------------------------------------------------------------------

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Image pixels per position of layer1..layer4."""
        return tuple(self.networks()[0].layer_strides)

    @property
    def link_strides(self) -> tuple[int, ...]:
        """Image pixels per position of the maps that are exchanged."""
        return tuple(backbone_lib.link_strides(self.networks()[0]))

    @property
    def link_channels(self) -> tuple[int, ...]:
        """Channels of the maps that are exchanged: they are not lifted."""
        return tuple(self.networks()[0].layer_channels)

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels of layer1..layer4."""
        return (*self.networks()[0].layer_channels[:3], self.channels)

    @property
    def image_size(self) -> int | None:
        """The side of the images, where the network inside takes one size."""
        return getattr(self.networks()[0], "image_size", None)

    @property
    def dtype(self) -> Dtype | None:
        """The compute dtype."""
        return self.of.get("dtype")

    def parts(self) -> list[Part]:
        """The network inside, and its lifts."""
        lifts = {"features": self.features, "channels": self.channels}
        return [
            Part("network", ("network",)),
            Part("lift", ("lift_pooled", "lift_layer4"), lifts),
        ]
