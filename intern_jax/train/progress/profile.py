"""A window of steps that JAX's profiler traces."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax


class Profile:
    """Traces steps window[0] up to, not including, window[1] into `folder`. If either is None, nothing is traced."""

    def __init__(self, folder: pathlib.Path | None, window: Sequence[int] | None):
        self.folder, self.window, self.open = folder, window, False

    def before(self, step: int, state: Any) -> None:
        """Start or stop the trace before a step; `state` is the result of the previous step."""
        if not self.window or self.folder is None:
            return
        first, last = self.window
        if self.open and step >= last:
            self.close(state)
        elif step == first and not self.open:
            jax.profiler.start_trace(str(self.folder))
            self.open = True

    def close(self, state: Any = None) -> None:
        """Wait for the running steps and write the trace."""
        if self.open:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self.open = False
