"""Networks that are trained with their heads on a row's labels: from random weights, and from a rung's backbone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from intern_jax.adapt import fit
from intern_jax.benchmark import protocol
from intern_jax.benchmark.scores import scoring
from intern_jax.benchmark.scores.record import Record
from intern_jax.core import config as config_lib
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.data.sources.subset import Subset
from intern_jax.weights.model import Model

if TYPE_CHECKING:
    from intern_jax.benchmark.runner import RowBench


@dataclasses.dataclass
class Trained:
    """The records of one row's trained networks; `bench` gives its data, subsets and keys."""

    bench: RowBench

    def scratch(self, ladder: Mapping[str, Mapping[str, Model]]) -> list[Record]:
        """The same network from random weights, with its learning rate tuned on held-out training labels."""
        bench = self.bench
        cfg, spec = bench.cfg["scratch"], ladder["random"][bench.row.branch].spec
        records = []
        for fraction in cfg["fractions"]:
            settings = self._budget(cfg, fraction, self._tuned_rate(cfg, spec))
            rows = bench.subset(fraction, bench.seed)
            key = self._key("scratch", fraction, rows, settings) | {"backbone": dict(spec)}
            make = functools.partial(self._score, spec, None, settings, rows)
            records.append(bench.record(key, make))
        return records

    def finetune(self, ladder: Mapping[str, Mapping[str, Model]]) -> list[Record]:
        """The chosen rung's backbone, trained with its head on a fraction of the labels."""
        bench, records = self.bench, []
        cfg = bench.cfg["finetune"]
        for fraction in cfg.get("fractions", ()):
            backbone = ladder[cfg["rung"]][bench.row.branch]
            settings = self._budget(cfg, fraction, cfg["learning_rate"])
            rows = bench.subset(fraction, bench.seed)
            key = self._key("finetune", fraction, rows, settings) | {
                "rung": cfg["rung"],
                "backbone": backbone.name,
                "backbone_digest": backbone.digest,
            }
            make = functools.partial(self._score, backbone.spec, backbone, settings, rows)
            records.append(bench.record(key, make))
        return records

    def _key(
        self, method: str, fraction: float, rows: np.ndarray, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The key of a record; callers add whose network is trained."""
        bench = self.bench
        key = bench._key(method, fraction, bench.seed) | bench._rows_facts(rows)
        return key | {"settings": dict(settings), "test_digest": bench._test_digest}

    def _budget(self, cfg: Mapping[str, Any], fraction: float, rate: float) -> dict[str, Any]:
        family = self.bench.row.family
        batch_size = cfg["batch_size"][family]
        # Few labels overfit early: the budget grows with the square root of the fraction.
        views = cfg["views"][family] * fraction**0.5
        steps = max(int(views / batch_size), 1)
        return {"steps": steps, "batch_size": batch_size, "learning_rate": rate}

    def _tuned_rate(self, cfg: Mapping[str, Any], spec: Mapping[str, Any]) -> float:
        """The best of cfg's learning rates on a held-out fifth of all training labels, found once per row."""
        bench, rates = self.bench, cfg["learning_rates"]
        if len(rates) == 1:
            return rates[0]
        everything = np.arange(len(bench.train))
        rows, held = protocol.split_validation(
            everything, bench.train.keys, bench.train.labels, seed=0
        )
        scores = []
        for rate in rates:
            settings = self._budget(cfg, 1.0, rate)
            key = self._key("tune", 1.0, rows, settings)
            key |= {"backbone": dict(spec), "seed": 0, "draw": 0, "split": "validation"}
            make = functools.partial(self._score, spec, None, settings, rows, held, seed=0)
            scores.append(bench.record(key, make).score)
        best = np.argmax(scores) if bench.row.higher_is_better else np.argmin(scores)
        return rates[int(best)]

    def _score(
        self,
        spec: Mapping[str, Any],
        start: Model | None,
        settings: Mapping[str, Any],
        rows: np.ndarray,
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
        )
        source = bench.test if held is None else Subset(bench.train, held)
        arrays = eval_arrays(source, config_lib.bind(bench.row.transform()))
        out = model.predict(arrays["image"])
        return scoring.score(bench.row, out, arrays, bench.num_classes)
