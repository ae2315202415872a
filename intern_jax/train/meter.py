"""How fast a run is: images a second, the share of time spent waiting for data, and MFU."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from intern_jax.core.macs import multiply_adds

# Peak dense bfloat16 TFLOP/s by device kind, from the makers' data sheets.
PEAK_TFLOPS = {
    "NVIDIA A100": 312,
    "NVIDIA H100": 989,
    "NVIDIA H200": 989,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
}


class Meter:
    """Times a run from `start`: `next_batch` counts the wait, `rates` ends an interval.

    `blocks`: how many processes make each another part of every batch.
    """

    def __init__(self, start: int, devices: int, blocks: int = 1):
        self.devices, self.blocks = devices, blocks
        self.images = 0
        self.flops: float | None = None
        self._waited = 0.0
        self._since = (time.monotonic(), start)

    def next_batch(self, batches: Iterator[Any]) -> Any:
        """The next batch; StopIteration where there is none."""
        before = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - before
        self.images = count_images(batch)
        return batch

    def restart(self, step: int) -> None:
        """Forget the time so far, so that compilation does not count as slow steps."""
        self._since, self._waited = (time.monotonic(), step), 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside counts for nothing."""
        before = time.monotonic()
        yield
        since, step = self._since
        self._since = (since + time.monotonic() - before, step)

    def rates(self, step: int) -> tuple[float, dict[str, float]]:
        """Steps a second since the last interval's end, and what to log of it."""
        before, last = self._since
        seconds = max(time.monotonic() - before, 1e-9)
        per_second = (step - last) / seconds
        made = {
            "images_per_second": per_second * self.images * self.blocks,
            "data_wait": self._waited / seconds,
        }
        fastest = peak()
        if self.flops and fastest:
            made["mfu"] = self.flops * per_second / (fastest * self.devices)
        self.restart(step)
        return per_second, made

    def count_flops(self, step: jax.stages.Wrapped, arguments: tuple) -> None:
        """Take a step's operations from what it traces to, where the device's peak is known.

        Not from XLA's analysis, which counts the body of a loop once. What remat computes again counts again.
        """
        if peak():
            try:
                self.flops = 2.0 * multiply_adds(step.trace(*arguments).jaxpr)
            except ValueError:  # a loop of unknown length
                self.flops = None


def count_images(batch: Mapping[str, Mapping[str, Any]]) -> int:
    """Pictures of a batch, each view counted: rows of every field named image...; else all rows."""
    fields = [(name, value) for rows in batch.values() for name, value in rows.items()]
    images = sum(len(value) for name, value in fields if name.startswith("image"))
    return images or sum(len(next(iter(rows.values()))) for rows in batch.values())


def peak() -> float | None:
    """This device's peak FLOP/s, or None where it is not known."""
    kind = jax.devices()[0].device_kind
    return next((t * 1e12 for name, t in PEAK_TFLOPS.items() if kind.startswith(name)), None)
