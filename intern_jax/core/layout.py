"""Every file name of a workdir in one object.

WORKDIR/results.json, report.html     the results of a run, for programs and for people
WORKDIR/records/*.json, *.npz         one file per score, and its outcomes per test image
WORKDIR/seed0/STAGE-KEY/              a stage: key.json, model.safetensors, done.json, and what the loop writes
WORKDIR/model/                        the last stage's backbone as a model folder, with its text tower if it has one
WORKDIR/towers/STAGE/                 the same of each earlier stage that learnt from texts
WORKDIR/pictures/*.npz                predictions that the report draws
WORKDIR/lock.json                     who works there, while a run does
WORKDIR/compiled/, unfinished/        compiled programs; checkpoints of fits that are not done
WORKDIR/features/, lists/             of `benchmark`: frozen features, and the labels in each fraction
WORKDIR/*.csv                         of `benchmark`: GV-B's figures, those of the mini rows, and gains
"""

import dataclasses
import os
import pathlib

from intern_jax.core.files import local


@dataclasses.dataclass(frozen=True)
class StageFiles:
    """The folder of one stage of one seed."""

    folder: pathlib.Path

    @property
    def key(self) -> pathlib.Path:
        """The content whose digest is the stage's key."""
        return self.folder / "key.json"

    @property
    def model(self) -> pathlib.Path:
        """The trained arrays."""
        return self.folder / "model.safetensors"

    @property
    def done(self) -> pathlib.Path:
        """Facts of the finished training; written last."""
        return self.folder / "done.json"

    @property
    def metrics(self) -> pathlib.Path:
        """The scalars: one line of JSON per logged step."""
        return self.folder / "metrics.jsonl"

    @property
    def scalars(self) -> pathlib.Path:
        """What each scalar is: kind, title, unit and direction (core/scalars.py)."""
        return self.folder / "scalars.json"

    @property
    def checkpoints(self) -> pathlib.Path:
        """The checkpoints: one folder per saved step."""
        return self.folder / "checkpoints"

    @property
    def profile(self) -> pathlib.Path:
        """The traces of profiled steps."""
        return self.folder / "profile"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The paths of a workdir."""

    workdir: pathlib.Path

    @classmethod
    def of(cls, workdir: str | os.PathLike[str]) -> "Layout":
        """The layout of a folder, which need not exist; UserError for an address of object storage."""
        return cls(local(workdir, "workdir"))

    def make(self) -> "Layout":
        """Create the workdir."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        return self

    @property
    def lock(self) -> pathlib.Path:
        """Says which run works in the workdir."""
        return self.workdir / "lock.json"

    def seed(self, seed: int) -> pathlib.Path:
        """The folder of one seed's stages."""
        return self.workdir / f"seed{seed}"

    def stage(self, seed: int, name: str, key: str) -> StageFiles:
        """The files of one stage."""
        return StageFiles(self.seed(seed) / f"{name}-{key}")

    def below(self, path: pathlib.Path) -> str:
        """A path in the form in which files of the workdir name it: relative, with slashes."""
        return path.relative_to(self.workdir).as_posix()

    @property
    def results(self) -> pathlib.Path:
        """Config, versions, stages, records and table of a run."""
        return self.workdir / "results.json"

    @property
    def report(self) -> pathlib.Path:
        """The page of a run."""
        return self.workdir / "report.html"

    @property
    def records(self) -> pathlib.Path:
        """The records: one file per score."""
        return self.workdir / "records"

    @property
    def unfinished(self) -> pathlib.Path:
        """The checkpoints from which long fits resume after a kill."""
        return self.workdir / "unfinished"

    @property
    def model(self) -> pathlib.Path:
        """The model folder that a run leaves."""
        return self.workdir / "model"

    def towers(self, stage: str) -> pathlib.Path:
        """The model folder of an earlier stage that learnt from texts."""
        return self.workdir / "towers" / stage

    @property
    def pictures(self) -> pathlib.Path:
        """Arrays that the report draws."""
        return self.workdir / "pictures"

    @property
    def compiled(self) -> pathlib.Path:
        """Compiled programs."""
        return self.workdir / "compiled"

    @property
    def features(self) -> pathlib.Path:
        """Frozen features of a benchmark."""
        return self.workdir / "features"

    @property
    def lists(self) -> pathlib.Path:
        """List files of a benchmark's labels."""
        return self.workdir / "lists"

    @property
    def config(self) -> pathlib.Path:
        """The resolved config of a benchmark, with versions."""
        return self.workdir / "config.json"

    @property
    def table(self) -> pathlib.Path:
        """GV-B's figures, not rounded."""
        return self.workdir / "table.csv"

    @property
    def table_page(self) -> pathlib.Path:
        """The page of GV-B's table."""
        return self.workdir / "table.html"

    @property
    def gains(self) -> pathlib.Path:
        """The gains of methods over each other, not rounded."""
        return self.workdir / "gains.csv"

    @property
    def mini_table(self) -> pathlib.Path:
        """The figures of the mini rows, not rounded."""
        return self.workdir / "mini.csv"
