"""An evaluator of a stage of image-text pairs: accuracy on classes that are only named, as in CLIP (arXiv 2103.00020).

Legend: N pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.core.scalars import share
from intern_jax.metrics.classification import correct
from intern_jax.stages.held_out_pairs import Pairs, Variables, check_data, picture
from intern_jax.tasks import prompts
from intern_jax.train.stage import Stage

KS = (1, 5)


class ZeroShot(Pairs):
    """Called with a stage's variables, it gives {"SET/top1", "SET/top5"}: accuracy on classes that are only named.

    `data`: {set: {"sources": [one], "transform": {...}}}, whose rows have image and label. `names`: {set: the words of
    its classes}, where those of the source are not meant. `templates`: a set of prompts (tasks/prompts.py) or texts
    with a {}. A class is the mean of its prompts' unit embeddings. Of equal scores the lower class counts as better.
    """

    @staticmethod
    def check_arguments(
        data: Mapping[str, Any],
        templates: str | int | Sequence[str] = "1",
        names: Mapping[str, Sequence[str]] | None = None,
        tokenizer: str | None = None,  # noqa: ARG004  (read when the evaluator is made)
        context: int | None = None,  # noqa: ARG004
        batch_size: int = 128,
    ) -> None:
        """Refuse sets and prompts that have no form of either."""
        check_data(data, batch_size)
        prompts.templates(templates)
        for name in names or {}:
            if name not in data:
                raise UserError(f"names.{name}: no such set in data")

    def __init__(
        self,
        stage: Stage,
        data: Mapping[str, Any],
        templates: str | int | Sequence[str] = "1",
        names: Mapping[str, Sequence[str]] | None = None,
        tokenizer: str | None = None,
        context: int | None = None,
        batch_size: int = 128,
    ):
        self.check_arguments(data, templates, names)
        super().__init__(stage, data, tokenizer, context, batch_size)
        self.about = {f"{s}/top{k}": share(f"top-{k}", s) for s in self.sets for k in KS}
        self.forms, self.names = prompts.templates(templates), {}
        for name, (source, _) in self.sets.items():
            given, where = (names or {}).get(name), f"evaluators.data.{name}"
            words = prompts.class_words(source.classes, where) if given is None else list(given)
            if not words or len(words) != len(source.classes):
                raise UserError(f"{where}: {len(words)} names for {len(source.classes)} classes")
            self.names[name] = words

    def __call__(self, variables: Variables) -> dict[str, float]:
        placed, found = self.placed(variables), dict[str, float]()
        for name, (source, _) in self.sets.items():
            right = dict.fromkeys(KS, 0)
            for scores, labels in self.scores(placed, name):
                for k in right:
                    right[k] += int(correct(scores, labels, k).sum())
            found |= {f"{name}/top{k}": count / len(source) for k, count in right.items()}
        return found

    def scores(self, variables: Variables, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The cosines [n,K] of a set's pictures and classes, and the labels [n], a batch at a time."""
        labels: list[int] = []

        def pictures() -> Iterator[np.ndarray]:
            for _, row in self.samples(name):
                labels.append(int(row["label"]))
                yield picture(row, name)

        def embed(texts: list[str]) -> np.ndarray:
            return self.texts(variables, texts)

        classes = prompts.class_embeddings(self.names[name], self.forms, embed)
        for rows in self.images(variables, pictures()):
            # `pictures` is read ahead by at most this batch.
            yield rows @ classes.T, np.array(labels[: len(rows)])
            del labels[: len(rows)]
