"""TPU chips by their data sheets, and a roofline estimate of a program's time.

Rates are the makers' peaks. The estimate is a lower bound of a program's time, and not a prediction.
"""

from __future__ import annotations

import dataclasses

from intern_jax.core.config import UserError
from intern_jax.topology.hlo import Cost
from intern_jax.train.progress import meter

GB, GIB = 1e9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one JAX device has: bfloat16 FLOP/s, bytes of HBM, bytes/s of HBM, and bytes/s that its links send together.

    A device is a whole chip, but one of the two cores of a TPU7x. `kind` is its name in JAX, by which its FLOP/s are
    known. `layout` is the compiler's name for such devices.
    """

    kind: str
    hbm_size: float
    hbm: float
    links: float
    layout: str = "default"

    @property
    def flops(self) -> float:
        return meter.PEAK_TFLOPS[self.kind] * 1e12


# Source: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, "System architecture" (read November 2026).
# The pages give the sum of all links in both directions, or in Gbit/s; here it is for one direction.
# Capacities are what a program may use (GiB).
CHIPS = {
    # 275 TFLOP/s; 32 GiB at 1200 GB/s; six links of 50 GB/s (Jouppi et al. 2023, arXiv 2304.01433).
    # A v4 machine joins a chip's two cores to one device; the compiler's default would be two.
    "v4": Chip("TPU v4", 32 * GIB, 1200 * GB, 300 * GB, layout="megacore"),
    # 197 TFLOP/s; 16 GB at 819 GB/s; 1600 Gbit/s.
    "v5e": Chip("TPU v5 lite", 16 * GIB, 819 * GB, 200 * GB),
    # 459 TFLOP/s; 95 GB at 2765 GB/s; 4800 Gbit/s.
    "v5p": Chip("TPU v5", 95 * GIB, 2765 * GB, 600 * GB),
    # 918 TFLOP/s; 32 GB at 1638 GB/s; 800 GB/s in both directions together.
    "v6e": Chip("TPU v6 lite", 32 * GIB, 1638 * GB, 400 * GB),
    # Half of a chip: 2307 TFLOP/s; 192 GiB at 7380 GB/s; 1200 GB/s in both directions together. The faster link between
    # its two devices is left out.
    "tpu7x": Chip("TPU7x", 96 * GIB, 3690 * GB, 300 * GB),
}


def chip_of(topology: str) -> Chip:
    """The chip of a topology's name ("v5e:16x16"); UserError for a chip that is not in the table."""
    kind, colon, shape = topology.partition(":")
    if kind not in CHIPS or not colon or not shape:
        known = ", ".join(CHIPS)
        raise UserError(f"--topology={topology}: write CHIP:SHAPE, as v5e:16x16; chips: {known}")
    return CHIPS[kind]


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The seconds of a step by the data sheet, for each resource alone and for all together.

    For `chip`, instructions run one after the other, each for the longer of its compute time and its
    memory time. `step` is the longer of the chip's time and the links' time, as if they overlapped
    completely.
    """

    compute: float
    memory: float
    links: float
    chip: float

    @property
    def step(self) -> float:
        return max(self.chip, self.links)


def roofline(cost: Cost, chip: Chip) -> Roofline:
    """The estimated time of a step on a chip; all its links are busy during communication."""
    return Roofline(
        compute=cost.flops / chip.flops,
        memory=cost.hbm / chip.hbm,
        links=cost.sent / chip.links,
        chip=sum(max(w.flops / chip.flops, w.hbm / chip.hbm) * w.times for w in cost.work),
    )
