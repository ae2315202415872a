"""Networks that are trained with their heads on a row's labels: from random weights, and from a rung's backbone.

Settings of a training from random weights are chosen at each fraction, on held-out labels of that fraction's subset
(choice.py). Every trial is a record of its own, with split "validation", so a run that was killed goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from intern_jax.adapt import fit
from intern_jax.benchmark import choice, heads, protocol, scoring
from intern_jax.benchmark.choice import Choice, Setting
from intern_jax.benchmark.scores.cells import SCRATCH
from intern_jax.benchmark.scores.record import Record
from intern_jax.core import config as config_lib
from intern_jax.core.texts import percent
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.data.sources.subset import Subset
from intern_jax.train.progress.guard import Hopeless
from intern_jax.weights.model import Model

if TYPE_CHECKING:
    from intern_jax.benchmark.runner import RowBench

log = logging.getLogger(__name__)
Ladder = Mapping[str, Mapping[str, Model]]
# {network of settings.Scratch: the method's name in records and tables}.
METHODS = dict(zip(("branch", "generalist"), SCRATCH, strict=True))


@dataclasses.dataclass
class Trained:
    """The records of one row's trained networks; `bench` gives its data, subsets and keys."""

    bench: RowBench

    def scratch(self, ladder: Ladder) -> list[Record]:
        """Each network of the settings from random weights at each fraction, without the records of trials."""
        cfg = self.bench.cfg["scratch"]
        return [
            self._scratch(METHODS[network], self._spec(network, ladder), fraction)
            for network in cfg["networks"]
            for fraction in cfg["fractions"]
        ]

    def _spec(self, network: str, ladder: Ladder) -> dict[str, Any]:
        """The spec of the lowest rung's network, or that of the generalist: given, or the highest rung's."""
        given = self.bench.cfg["scratch"]["generalist"]
        if network == "generalist" and given:
            return dict(given)
        rung = "random" if network == "branch" else list(ladder)[-1]
        return dict(self.bench.row.backbone(ladder[rung]).spec)

    def _scratch(self, method: str, spec: Mapping[str, Any], fraction: float) -> Record:
        bench, cfg = self.bench, self.bench.cfg["scratch"]
        rows = bench.subset(fraction, bench.seed)
        chosen = self._chosen(method, spec, fraction, rows)
        settings = self._settings(fraction, chosen.setting)
        grid = {
            name: cfg[name] for name in ("learning_rates", "weight_decays", "lengths", "longest")
        }
        key = self._key(cfg, method, fraction, rows, settings)
        # The grid is a part of the key, because the record tells how its settings were chosen.
        key |= {"backbone": dict(spec), "grid": config_lib.plain(grid)}
        facts = {
            "budget": chosen.budget,
            "chosen": dataclasses.asdict(chosen.setting),
            "search": [self._tried(fraction, *one) for one in chosen.tried],
        }
        make = functools.partial(self._score, cfg, spec, None, settings, rows, self._folder(key))
        return bench.record(key, lambda: {**make(), **facts})

    def _folder(self, key: Mapping[str, Any]) -> pathlib.Path:
        """Where a training that is killed leaves its checkpoints: seeds run side by side and share records."""
        return self.bench.recorder.unfinished({**key, "run": self.bench.seed})

    def _tried(self, fraction: float, setting: Setting, score: float) -> dict[str, Any]:
        steps = self._settings(fraction, setting)["steps"]
        shown = None if math.isnan(score) else score
        return {**dataclasses.asdict(setting), "steps": steps, "score": shown}

    def _chosen(
        self, method: str, spec: Mapping[str, Any], fraction: float, rows: np.ndarray
    ) -> Choice:
        """The settings for a fraction, by held-out labels of its subset; the first where these are too few."""
        bench, cfg = self.bench, self.bench.cfg["scratch"]
        # All labels can be drawn in one way only, so all seeds share what was tried on them.
        draw = 0 if len(rows) == len(bench.train) else bench.seed
        held = None
        if choice.is_open(cfg):
            labels, keys = bench.train.labels, bench.train.keys
            held = protocol.held_out(rows, keys, labels, bench.num_classes, draw)
        where = f"{bench.row.name} {percent(fraction)}, {method}"
        if held is None:
            found = choice.first(cfg, "few labels" if choice.is_open(cfg) else "one setting")
        else:
            measure = functools.partial(
                self._trial, where, spec, fraction, rows[~held], rows[held], draw
            )
            found = choice.choose(cfg, measure, bench.row.higher_is_better)
        log.info(
            "%s: %s: %s", where, self._said(fraction, found.setting), choice.BUDGETS[found.budget]
        )
        return found

    def _trial(
        self,
        where: str,
        spec: Mapping[str, Any],
        fraction: float,
        rows: np.ndarray,
        held: np.ndarray,
        draw: int,
        setting: Setting,
    ) -> float:
        """The score of one setting on the labels in `held`; NaN where its training diverged."""
        bench, settings = self.bench, self._settings(fraction, setting)
        key = self._key(bench.cfg["scratch"], "tune", fraction, rows, settings, held) | {
            "backbone": dict(spec),
            "seed": draw,
            "draw": draw,
            "held_digest": protocol.subset_digest(bench.train.keys, held),
        }
        make = functools.partial(
            self._held_score, spec, settings, rows, held, draw, self._folder(key)
        )
        record = bench.record(key, make)
        said, unit, digits = self._said(fraction, setting), record.unit, record.digits
        log.info("%s: %s: %.*f %s held out", where, said, digits, record.score, unit)
        return record.score

    def _said(self, fraction: float, setting: Setting) -> str:
        settings = self._settings(fraction, setting)
        views = settings["steps"] * settings["batch_size"]
        return f"rate {setting.learning_rate:g}, decay {setting.weight_decay:g}, {views} views"

    def _held_score(
        self,
        spec: Mapping[str, Any],
        settings: Mapping[str, Any],
        rows: np.ndarray,
        held: np.ndarray,
        seed: int,
        folder: pathlib.Path,
    ) -> dict[str, Any]:
        cfg = self.bench.cfg["scratch"]
        try:
            return self._score(cfg, spec, None, settings, rows, folder, held, seed)
        except Hopeless as error:
            return {"score": math.nan, "n_test": len(held), "diverged": str(error)}

    def finetune(self, ladder: Ladder) -> list[Record]:
        """The chosen rung's backbone, trained with its head on a fraction of the labels."""
        bench, records = self.bench, []
        cfg = bench.cfg["finetune"]
        for fraction in cfg.get("fractions", ()):
            backbone = bench.row.backbone(ladder[cfg["rung"]])
            settings = self._budget(cfg, fraction) | {"learning_rate": cfg["learning_rate"]}
            rows = bench.subset(fraction, bench.seed)
            key = self._key(cfg, "finetune", fraction, rows, settings) | {
                "rung": cfg["rung"],
                "backbone": backbone.name,
                "backbone_digest": backbone.digest,
            }
            spec, folder = backbone.spec, self._folder(key)
            make = functools.partial(self._score, cfg, spec, backbone, settings, rows, folder)
            records.append(bench.record(key, make))
        return records

    # --- shared -------------------------------------------------------------------------------

    def _key(
        self,
        cfg: Mapping[str, Any],
        method: str,
        fraction: float,
        rows: np.ndarray,
        settings: Mapping[str, Any],
        held: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """The key of a record; callers add whose network is trained."""
        key = self.bench.key(method, fraction, self.bench.seed, rows, held)
        augment = config_lib.plain(self._augment(cfg))
        key |= {"settings": dict(settings), "augment": augment}
        # Keys from before there was a choice have none.
        return key if self._decoder is None else key | {"decoder": self._decoder}

    @property
    def _decoder(self) -> dict[str, Any] | None:
        return heads.decoder_of(self.bench.row, self.bench.cfg["heads"])

    def _augment(self, cfg: Mapping[str, Any]) -> Mapping[str, Any]:
        return cfg["augment"].get(self.bench.row.family, {})

    def _settings(self, fraction: float, setting: Setting) -> dict[str, Any]:
        """The arguments of fit.settings."""
        rate = {"learning_rate": setting.learning_rate, "weight_decay": setting.weight_decay}
        return self._budget(self.bench.cfg["scratch"], fraction, setting.length) | rate

    def _budget(self, cfg: Mapping[str, Any], fraction: float, length: float = 1) -> dict[str, Any]:
        family = self.bench.row.family
        batch_size = cfg["batch_size"][family]
        # Few labels overfit early: the budget grows with the square root of the fraction.
        views = cfg["views"][family] * length * fraction**0.5
        return {"steps": max(int(views / batch_size), 1), "batch_size": batch_size}

    def _score(
        self,
        cfg: Mapping[str, Any],
        spec: Mapping[str, Any],
        start: Model | None,
        settings: Mapping[str, Any],
        rows: np.ndarray,
        folder: pathlib.Path,
        held: np.ndarray | None = None,
        seed: int | None = None,
    ) -> dict[str, Any]:
        """Train on `rows`; the score on the test split, or on `held` of the training examples."""
        bench = self.bench
        model = fit.train_model(
            spec,
            Subset(bench.train, rows),
            family=bench.row.family,
            size=bench.row.size,
            flip=bench.row.flip,
            cfg=fit.settings(**settings),
            seed=bench.seed if seed is None else seed,
            mesh=bench.fits_on,
            init=start,
            augment=self._augment(cfg),
            head=self._decoder,
            workdir=folder,
        )
        source = bench.test if held is None else Subset(bench.train, held)
        arrays = eval_arrays(source, config_lib.bind(bench.row.transform()))
        beside = {name: arrays[name] for name in bench.row.task_family.beside}
        out = model.predict(arrays["image"], **beside)
        if not np.isfinite(out).all():
            raise Hopeless(f"{bench.row.name}: outputs are not finite; lower the learning rate")
        shutil.rmtree(folder, ignore_errors=True)
        return scoring.score(bench.row, out, arrays, bench.num_classes, source)
