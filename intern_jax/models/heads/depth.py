"""A depth decoder for frozen features: a top-down pyramid and an expectation over depth bins.

GV-B names no depth network. This reconstruction uses what is known to work on frozen features:
- a convolutional decoder that merges all levels from coarse to fine (FPN, arXiv 1612.03144; DPT, arXiv 2103.13413);
- depth as the expectation over bins between the data set's limits (AdaBins, arXiv 2011.14141; with fixed uniform bins
  in DINOv2's frozen evaluation, arXiv 2304.07193). It cannot leave the limits, and its gradient does not vanish near
  them, as that of a sigmoid does.
Legend: B batch, H, W image size, N bins.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.core.config import UserError
from intern_jax.models.heads.dense import resize
from intern_jax.models.layers.basic import BatchNorm, Conv, Dtype


class DepthDecoder(nn.Module):
    """Maps layer1..layer4 to log-depth [B,H,W,1] in at least float32, within [min_depth, max_depth] metres.

    Every layer is mapped to `width` channels. From the coarsest layer on, the sum so far is resized,
    added, and passed through a 3x3 convolution, BatchNorm and ReLU. At the size of the finest layer,
    the softmax of a 1x1 convolution weights the centres of `bins` uniform bins; their mean is the
    depth. It is resized bilinearly to the size of the image.
    """

    out_channels: int = 1  # the first setting of every decoder; always 1 here
    min_depth: float = 1e-3
    max_depth: float = 10.0
    bins: int = 256
    width: int = 128
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, features: Mapping[str, jax.Array], size: Sequence[int], train: bool
    ) -> jax.Array:
        self._check()
        names = sorted((name for name in features if name.startswith("layer")), reverse=True)
        x = features[names[0]]
        for name in names:
            side = features[name].shape[1:3]
            lateral = Conv(self.width, 1, use_bias=True, dtype=self.dtype, name=f"from_{name}")
            new = lateral(features[name])
            x = new if name == names[0] else new + resize(x, side)
            x = Conv(self.width, 3, dtype=self.dtype, name=f"merge_{name}")(x)
            x = nn.relu(BatchNorm(name=f"norm_{name}")(x, train))
        logits = Conv(self.bins, 1, use_bias=True, dtype=self.dtype, name="predict")(x)
        return jnp.log(resize(self._depth(logits), tuple(size)))

    def _depth(self, logits_BxHxWxN: jax.Array) -> jax.Array:
        precise = jnp.promote_types(logits_BxHxWxN.dtype, jnp.float32)
        share = jax.nn.softmax(logits_BxHxWxN.astype(precise))
        step = (self.max_depth - self.min_depth) / self.bins
        centres = self.min_depth + step * (jnp.arange(self.bins, dtype=precise) + 0.5)
        return jnp.einsum("bhwn,n->bhw", share, centres, precision="highest")[..., None]

    def _check(self) -> None:
        if self.out_channels != 1:
            raise UserError(
                f"head: 'depth' predicts one map, not {self.out_channels} classes; "
                "take 'deeplabv3' or 'panoptic'"
            )
        if not 0 < self.min_depth < self.max_depth:
            raise UserError(
                f"head.settings: min_depth {self.min_depth}, max_depth {self.max_depth}; "
                "write 0 < min_depth < max_depth, in metres"
            )
