"""Checkpoints of the train state: Orbax saves them in the background, with a digest per array.

folder/<step>/state holds the TrainState (Orbax). folder/<step>/meta/metadata is a small JSON file: the step, the dtype,
shape and digest of every array, what the caller wrote, and the SHA-256 of the file. files.json lists every file with
its size, and the checksums of small files. Orbax renames a step's folder to its number only after all of this is
written. The digests are ours, because Orbax alone restores a flipped bit without an error.
"""

import dataclasses
import itertools
import logging
import pathlib
import shutil
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as managers

from intern_jax.core import config as config_lib
from intern_jax.core import digests, strict_json
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json
from intern_jax.processes import hosts
from intern_jax.processes.exits import machine_fault
from intern_jax.processes.joint import Joint
from intern_jax.train.state import TrainState

log = logging.getLogger(__name__)

META = pathlib.PurePath("meta", "metadata")
FILES = "files.json"
# files.json does not list itself, nor the marks that Orbax writes after it, which nothing here reads.
UNLISTED = (FILES, "commit_success.txt", "_CHECKPOINT_METADATA")
# Files of up to this size have a checksum; larger files hold arrays, which have digests.
SMALL_BYTES = 4 << 20
# How long a process waits for the others to finish their part of a save.
SAVE_SECONDS = 600
# How long the remaining threads of a failed save may take to finish.
FAILED_SECONDS = 10
# Pauses before a checkpoint that the machine could not read is read again.
PAUSES = (1.0, 4.0)


class _Saved(NamedTuple):
    """A checkpoint in the form that Orbax's preservation policies read."""

    step: int
    metrics: None = None
    time: None = None


class Damaged(Exception):
    """A checkpoint that cannot be used, and why."""


class Unreadable(Exception):
    """A checkpoint that a machine's own fault kept from being read, which proves nothing against it, and why."""


class Checkpoints:
    """A folder of checkpoints. It keeps the newest `keep` and those of every `keep_every`-th step.

    With a `horizon` it also keeps one that precedes the newest by so many steps, which a roll-back may need, and the
    one that will be next to do so.

    All processes of a run open it and call the same methods. `failed` counts the saves that failed.
    """

    def __init__(
        self, folder: pathlib.Path, keep: int, keep_every: int | None = None, horizon: int = 0
    ):
        self.folder = folder.resolve()
        newest, every = managers.LatestN(keep), managers.EveryNSteps(keep_every or 0)
        policies = [newest, every] if keep_every else [newest]
        self._kept = managers.AnyPreservationPolicy(policies)
        self._horizon = horizon
        self.failed = 0
        self._under_way: int | None = None
        self._joint: Joint | None = None  # of the save under way
        self._checkpointer: ocp.AsyncCheckpointer | None = None
        if hosts.is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()

    def steps(self) -> list[int]:
        """Steps on disk, oldest first, as process 0 sees them."""
        return hosts.broadcast_json(self._on_disk())

    def _on_disk(self) -> list[int]:
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdecimal())

    def restore(
        self, abstract: TrainState, until: int | None = None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest good state (of step `until` or earlier), sharded like `abstract`, and its JSON.

        None if there is no checkpoint. A damaged one is logged; it is set aside once an older one is found good.
        UserError if no checkpoint is good, or if it is of another model. hosts.MachineFault if one cannot be read
        for the machine's own fault, also after some pauses: that says nothing about the checkpoint.
        """
        self.settle()
        steps = [step for step in self.steps() if until is None or step <= until]
        damaged = []
        for step in reversed(steps):
            try:
                found = self._patiently(step, abstract)
            except Damaged as fault:
                log.warning("%s: %s; passed over", self.folder / str(step), fault)
                damaged.append(step)
                continue
            for bad in damaged:
                self._set_aside(bad, "damaged")
            return found
        if damaged:
            raise UserError(
                f"{self.folder}: none of the checkpoints {', '.join(map(str, steps))} can be used (the lines above "
                "say why); restore one from a copy, or use a new workdir to start afresh"
            )
        return None

    def save(self, state: TrainState, step: int, content: Mapping[str, Any]) -> None:
        """Start to save the state and plain `content`; the save finishes in the background.

        The arrays are copied before this returns, so the state may be donated. A save that fails is logged and
        counted. It raises nothing, and the next save is tried as usual.
        """
        self.settle()
        self._sweep()
        target = self.folder / str(step)
        if hosts.broadcast_json(target.exists()):
            return
        meta = {"step": step, **content, "arrays": digests.describe(state)}
        meta["sha256"] = config_lib.digest(meta)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_fields(state)), meta=ocp.args.JsonSave(meta)
        )
        self._under_way, self._joint = step, Joint(f"save {step}")
        self._checkpointer = checkpointer = self._new_checkpointer(self._joint)
        error = self._joint.run(lambda: checkpointer.save(target, args=args))
        if error is not None:
            self._fail(error)

    def settle(self) -> None:
        """Wait for the current save, log it if it failed, and delete checkpoints that need not be kept."""
        if self._joint is None or self._checkpointer is None:
            return
        error = self._joint.run(self._checkpointer.wait_until_finished)
        if error is not None:
            self._fail(error)
        else:
            self._checkpointer.close()
            self._leave()
            self._prune()

    def set_aside_after(self, step: int) -> None:
        """Rename the checkpoints of later steps, which a roll-back makes invalid."""
        for later in self.steps():
            if later > step:
                self._set_aside(later, "rolled-back")

    def close(self) -> None:
        """Wait for the current save and release the folder."""
        self.settle()
        self._sweep()

    def _patiently(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """`_read`, again after each pause where a machine's own fault is in the way."""
        for pause in PAUSES:
            try:
                return self._read(step, abstract)
            except Unreadable as fault:
                log.warning("%s: %s; trying again", self.folder / str(step), fault)
            time.sleep(pause)
        try:
            return self._read(step, abstract)
        except Unreadable as fault:
            raise hosts.MachineFault(f"{self.folder / str(step)}: {fault}") from None

    def _read(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state and JSON of one step. Raises Damaged or Unreadable on all processes if one of them does."""
        path = self.folder / str(step)
        meta = _together(lambda: read_meta(path))
        _together(lambda: _check_files(path))
        differing = _differing(meta["arrays"], digests.layout(abstract))
        if differing:
            raise UserError(f"{path}: of another model: {differing}; use a new workdir")
        # The handler reads it, because the checkpointer's barriers would wait for a process whose files are damaged.
        handler, args = ocp.StandardCheckpointHandler(), ocp.args.StandardRestore(_fields(abstract))
        state = TrainState(
            **_together(lambda: handler.restore(epath.Path(path / "state"), args=args))
        )
        for name, entry in digests.describe(state).items():
            if entry != meta["arrays"][name]:
                raise Damaged(f"{name} is not what was saved")
        return state, meta

    def _new_checkpointer(self, joint: Joint) -> ocp.AsyncCheckpointer:
        """A checkpointer of one save: it keeps no state of one that failed, and its barriers are those of `joint`."""
        # Barriers among named processes are no collectives on devices, in which a process cannot stop waiting.
        mine = jax.process_index()
        processes = set(range(hosts.everywhere())) if hosts.count() > 1 else {mine}
        among = ocp.options.MultiprocessingOptions(
            primary_host=min(processes),
            active_processes=processes,
            barrier_sync_key_prefix=joint.name,
        )
        items = {
            "state": ocp.StandardCheckpointHandler(multiprocessing_options=among),
            "meta": ocp.JsonCheckpointHandler(multiprocessing_options=among),
        }
        options = ocp.options.AsyncOptions(
            timeout_secs=SAVE_SECONDS,
            barrier_sync_fn=joint.meet,
            post_finalization_callback=self._sign_files,
            # Folders are made at once: in the background, one that cannot be made keeps threads waiting for minutes.
            create_directories_asynchronously=False,
        )
        composite = ocp.CompositeOptions(multiprocessing_options=among, async_options=options)
        handler = ocp.CompositeCheckpointHandler(composite_options=composite, **items)
        return ocp.AsyncCheckpointer(handler, async_options=options, multiprocessing_options=among)

    def _sign_files(self) -> None:
        """Write the list of files of the current save. Orbax calls this in the background, before the rename."""
        if hosts.is_main():
            (step,) = self.folder.glob(f"{self._under_way}.orbax-checkpoint-tmp*")
            files = _list_files(step)
            write_json(step / FILES, {"files": files, "sha256": config_lib.digest(files)})

    def _leave(self) -> None:
        """Forget the save under way, which all processes have finished."""
        if self._joint is not None:
            self._joint.close()
        self._under_way = self._joint = self._checkpointer = None

    def _fail(self, error: Exception) -> None:
        step = self._under_way
        self._leave()
        self.failed += 1
        log.warning(
            "%s: could not be saved (%s); training continues, and the next save will be tried",
            self.folder / str(step),
            _reason(error),
        )
        # Orbax raises the first thread's error while other threads still write. Those would write their files into
        # the folder of the next save of this step.
        _wait_for_orbax(FAILED_SECONDS)
        hosts.barrier(f"failed save of {step}")

    def _sweep(self) -> None:
        """Delete what a kill or an error left of a save or a deletion. No save may be running."""
        if hosts.is_main():
            for pattern in ("*.orbax-checkpoint-tmp*", "deleting-*"):
                for left in self.folder.glob(pattern):
                    # What cannot be deleted now is deleted the next time.
                    shutil.rmtree(left, ignore_errors=True)

    def _prune(self) -> None:
        if not hosts.is_main():
            return
        steps = [_Saved(step) for step in self._on_disk()]
        kept = self._kept.should_preserve(steps, context=managers.PreservationContext())
        before = self._before_horizon([saved.step for saved in steps])
        for saved, keep in zip(steps, kept, strict=True):
            if not keep and saved.step not in before:
                self._delete(saved.step)

    def _before_horizon(self, steps: Sequence[int]) -> list[int]:
        """The newest step that precedes the last one by the horizon, and the one that will follow it in this."""
        old = [step for step in steps if step <= steps[-1] - self._horizon]
        return [*old[-1:], *steps[len(old) :][:1]] if self._horizon else []

    def _delete(self, step: int) -> None:
        # The folder is renamed first, so a kill leaves no partly deleted step under a step's name.
        gone = _free(self.folder, f"deleting-{step}")
        try:
            (self.folder / str(step)).rename(gone)
        except OSError as error:
            log.warning("%s: cannot be deleted (%s)", self.folder / str(step), error)
        else:
            shutil.rmtree(gone, ignore_errors=True)

    def _set_aside(self, step: int, why: str) -> None:
        path = self.folder / str(step)
        # It may be gone by now.
        if hosts.is_main() and path.exists():
            aside = _free(self.folder, f"{why}-{step}")
            path.rename(aside)
            log.warning("%s: set aside as %s", path, aside.name)
        hosts.barrier(f"set aside {step}")


def read_meta(step: pathlib.Path) -> dict[str, Any]:
    """The JSON of a checkpoint's step folder. Raises Damaged."""
    path = step / META
    try:
        meta = strict_json.parse(path.read_bytes())
    except FileNotFoundError:
        raise Damaged(f"is not a whole checkpoint ({META} is missing)") from None
    except ValueError as error:
        raise Damaged(f"{META} cannot be read ({_reason(error)})") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("arrays"), dict):
        raise Damaged(f"{META} is not the description of a checkpoint")
    content = {name: value for name, value in meta.items() if name != "sha256"}
    if config_lib.digest(content) != meta.get("sha256"):
        raise Damaged(f"{META} is not what was saved")
    if str(meta["step"]) != step.name:
        raise Damaged(f"holds step {meta['step']}")
    return content


def _list_files(step: pathlib.Path) -> dict[str, list[int | None]]:
    """{path: [bytes, CRC-32 or None]} of all files of a step folder."""
    found = {}
    for path in sorted(step.rglob("*")):
        name = path.relative_to(step).as_posix()
        if path.is_file() and name not in UNLISTED:
            size = path.stat().st_size
            found[name] = [size, zlib.crc32(path.read_bytes()) if size <= SMALL_BYTES else None]
    return found


def _check_files(step: pathlib.Path) -> None:
    """Raise Damaged for a file that is missing, or that differs from what was written."""
    try:
        listed = strict_json.parse((step / FILES).read_bytes())
        listed, signed = listed["files"], listed["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{FILES} cannot be read ({_reason(error)})") from None
    if config_lib.digest(listed) != signed:
        raise Damaged(f"{FILES} is not what was saved")
    there = _list_files(step)
    for name, entry in listed.items():
        if name not in there:
            raise Damaged(f"{name} is missing")
        if there[name] != entry:
            raise Damaged(f"{name} is not what was saved")


def _wait_for_orbax(seconds: float) -> None:
    """Wait until this process has no thread of Orbax left, or until the time is over."""
    until = time.monotonic() + seconds
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            # Thread.join is called by its class: Orbax's own join raises the error of the thread.
            threading.Thread.join(thread, max(0.0, until - time.monotonic()))


def _together(read: Any) -> Any:
    """Call `read()` on every process. Raise Unreadable or else Damaged on all of them if one could not."""
    fault, machine, found = None, False, None
    try:
        found = read()
    except Damaged as error:
        fault = str(error)
    except Exception as error:
        fault = f"cannot be read ({_reason(error)})"
        # Any OSError but for a file that is not there: rights and mounts say nothing about what was saved.
        lost = isinstance(error, FileNotFoundError)
        machine = (isinstance(error, OSError) and not lost) or bool(machine_fault(error))
    told = hosts.gather_json({"fault": fault, "machine": machine})
    if any(one["fault"] for one in told):
        kind = Unreadable if any(one["machine"] for one in told) else Damaged
        raise kind(fault or "cannot be read on another process")
    return found


def _fields(state: Any) -> Any:
    """A train state's fields by name, but for empty `scales`: older states have none. Other trees are as they are."""
    if not isinstance(state, TrainState):
        return state
    found = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in found.items() if name != "scales" or value}


def _differing(saved: Mapping[str, digests.Entry], wanted: Mapping[str, digests.Entry]) -> str:
    """The first array that differs between a checkpoint and a state, and how many more do; "" if none does."""
    have = {name: tuple(entry[:2]) for name, entry in saved.items()}
    need = {name: tuple(entry) for name, entry in wanted.items()}
    names = sorted(
        (n for n in have.keys() | need.keys() if have.get(n) != need.get(n)),
        key=lambda n: (not n.startswith("params/"), n),
    )
    if not names:
        return ""
    was, now = (_shown(entries.get(names[0])) for entries in (have, need))
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return f"{names[0]} is {was} in it and {now} here{more}"


def _shown(entry: Sequence[Any] | None) -> str:
    return f"{entry[0]} {list(entry[1])}" if entry else "absent"


def _reason(error: BaseException) -> str:
    """The first cause of an error in a few words; Orbax wraps it in other errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:")[:200] if lines else type(error).__name__


def _free(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A path of that name that does not exist yet; a number is appended if the name is taken."""
    names = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
    return next(folder / n for n in names if not (folder / n).exists())
