"""Checkpoints of the train state: Orbax, written in the background, restored onto shardings."""

import itertools
import logging
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from intern_jax.core.config import UserError
from intern_jax.train.state import TrainState

log = logging.getLogger(__name__)

CONTENTS = ("_CHECKPOINT_METADATA", "state/_METADATA", "meta/metadata")  # of a whole checkpoint


class Checkpoints:
    """A folder of checkpoints; each is the whole TrainState and a small JSON beside it."""

    def __init__(self, folder: pathlib.Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self.folder = folder
        if jax.process_index() == 0:
            _set_aside_unfinished(folder)
        self.manager = ocp.CheckpointManager(
            folder.resolve(), options=options, item_handlers=handlers
        )

    def latest(self) -> int | None:
        """The newest finished step."""
        return self.manager.latest_step()

    def restore(self, abstract: TrainState) -> tuple[TrainState, Mapping[str, Any]]:
        """The newest state, placed as `abstract` says, and its JSON."""
        step = self.latest()
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
        )
        where = f"{self.folder}/{step}"
        try:
            differing = _differing(self.manager.item_metadata(step)["state"], abstract)
            if differing:
                raise UserError(f"{where}: of another model: {differing}; use a new workdir")
            restored = self.manager.restore(step, args=args)
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".:")
            raise UserError(
                f"{where}: cannot be read ({reason}); delete it to continue from the one before"
            ) from None
        return restored["state"], restored["meta"]

    def save(self, state: TrainState, step: int, meta: Mapping[str, Any]) -> None:
        """Start a save; it ends in the background, or before the next one starts.

        The arrays are copied before this returns, so that the state may be donated.
        """
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))
        )
        self.manager.save(step, args=args)

    def close(self) -> None:
        """Wait for a save under way and release the folder."""
        self.manager.wait_until_finished()
        self.manager.close()


def _differing(saved: Any, wanted: TrainState) -> str:
    """The first array that a checkpoint and a state do not share, and how many more; "" if none."""
    have, need = (
        {name: tuple(leaf.shape) for name, leaf in ocp.tree.to_flat_dict(t, sep="/").items()}
        for t in (saved.tree, wanted)
    )
    names = sorted(
        (n for n in have.keys() | need.keys() if have.get(n) != need.get(n)),
        key=lambda n: (not n.startswith("params/"), n),
    )
    if not names:
        return ""
    was, now = (shapes.get(names[0], "absent") for shapes in (have, need))
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return f"{names[0]} is {was} in it and {now} here{more}"


def _set_aside_unfinished(folder: pathlib.Path) -> None:
    # A save under way has a temporary name; an interrupted deletion or copy leaves a step's name.
    steps = {int(path.name): path for path in folder.glob("*") if path.name.isdecimal()}
    whole = [step for step, path in steps.items() if all((path / n).exists() for n in CONTENTS)]
    newest = max(whole, default=-1)
    for step in steps.keys() - set(whole):
        if step < newest:
            shutil.rmtree(steps[step])
            continue
        log.warning("%s: is no whole checkpoint; passed over and set aside", steps[step])
        steps[step].rename(_free_name(steps[step]))


def _free_name(step: pathlib.Path) -> pathlib.Path:
    names = (step.with_name(f"unfinished-{step.name}-{n}") for n in itertools.count())
    return next(name for name in names if not name.exists())
