"""A window of steps for JAX's profiler."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax


class Profile:
    """Traces the steps from window[0] up to window[1] into `folder`; None for either: nothing."""

    def __init__(self, folder: pathlib.Path | None, window: Sequence[int] | None):
        self.folder, self.window, self.open = folder, window, False

    def before(self, step: int, state: Any) -> None:
        """Open or close the window before a step; `state` is what the last step made."""
        if not self.window or self.folder is None:
            return
        first, last = self.window
        if self.open and step >= last:
            self.close(state)
        elif step == first and not self.open:
            jax.profiler.start_trace(str(self.folder))
            self.open = True

    def close(self, state: Any = None) -> None:
        """Write what was traced; the steps under way end first."""
        if self.open:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self.open = False
