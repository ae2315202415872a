"""Checkpoints of the train state: Orbax, written in the background, restored onto target shardings."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp

from intern_jax.core.config import UserError
from intern_jax.train.state import TrainState

log = logging.getLogger(__name__)


class Checkpoints:
    """A folder of checkpoints; each is the whole TrainState and a small JSON beside it."""

    def __init__(self, folder: pathlib.Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self.folder = folder
        self.manager = ocp.CheckpointManager(
            folder.resolve(), options=options, item_handlers=handlers
        )

    def latest(self) -> int | None:
        """The newest finished step; a half-written one has not its final name yet and does not count."""
        return self.manager.latest_step()

    def restore(self, abstract: TrainState) -> tuple[TrainState, Mapping[str, Any]]:
        """The newest state, placed as `abstract` says, and its JSON."""
        step = self.latest()
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
        )
        try:
            restored = self.manager.restore(step, args=args)
        except (ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise UserError(
                f"{self.folder}/{step}: does not fit this model ({reason}); use a new workdir"
            ) from None
        return restored["state"], restored["meta"]

    def save(self, state: TrainState, step: int, meta: Mapping[str, Any]) -> None:
        """Start a save; it ends in the background, or before the next one starts."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))
        )
        self.manager.save(step, args=args)

    def close(self) -> None:
        """Wait for a save under way and release the folder."""
        self.manager.wait_until_finished()
        self.manager.close()
