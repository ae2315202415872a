"""A batch spread over devices gives what one device gives: BatchNorm sees the global batch."""

import os
import subprocess
import sys

import pytest
from compiling import QUICK

PROGRAM = """
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from flax.core import meta
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from intern_jax.models import zoo

module = zoo.build({"name": "embedded_tiny", "operators": ("conv", "mbconv", "sa", "sa")})
image = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
# Rows differ in scale: statistics per device would differ much.
image = image * jnp.arange(1.0, 9.0)[:, None, None, None]
jit = partial(jax.jit, compiler_options=QUICK)
key = jax.random.key(0, impl="rbg")
tree = meta.unbox(jit(partial(module.init, train=False))(key, image))

@jit
def step(params, image):
    def loss(params):
        weights = tree | {"params": params}
        out, new = module.apply(weights, image, train=True, mutable=["batch_stats"])
        return jnp.mean(out["pooled"] ** 2), (out["pooled"], new)
    return jax.grad(loss, has_aux=True)(params)

mesh = Mesh(np.array(jax.devices()), ("data",))
spread = jax.device_put(image, NamedSharding(mesh, PartitionSpec("data")))
one, four = step(tree["params"], image), step(tree["params"], spread)
assert len(four[1][0].sharding.device_set) == 4
for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
    scale = max(np.abs(a).max(), 1e-3)
    assert np.abs(np.asarray(a) - np.asarray(b)).max() <= 1e-4 * scale
"""


@pytest.mark.medium
def test_batchnorm_over_four_devices():
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    done = subprocess.run(
        [sys.executable, "-c", f"QUICK = {QUICK}\n{PROGRAM}"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
