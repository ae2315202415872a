"""An evaluator of a stage of image-text pairs: recall at 1, 5 and 10, of pictures to texts and of texts to pictures.

Legend: N pictures, M texts, D embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.core.scalars import share
from intern_jax.metrics.retrieval import KS, recall
from intern_jax.stages.held_out_pairs import Pairs, Variables, check_data, picture
from intern_jax.train.stage import Stage


class Retrieval(Pairs):
    """Called with a stage's variables, it gives R@1, 5 and 10 both ways, {"SET/i2t_r1", ..., "SET/t2i_r10"}.

    `data` is that of ZeroShot; rows have an image (PairViews with train=False gives one), and samples their texts.
    `texts`: how many of a sample's texts count, from the first; 0 for all. metrics/retrieval.py says what is right.
    """

    @staticmethod
    def check_arguments(
        data: Mapping[str, Any],
        texts: int = 0,
        tokenizer: str | None = None,  # noqa: ARG004
        context: int | None = None,  # noqa: ARG004
        batch_size: int = 128,
    ) -> None:
        """Refuse sets that have no form of one."""
        check_data(data, batch_size)
        if not isinstance(texts, int) or isinstance(texts, bool) or texts < 0:
            raise UserError(f"texts: {texts!r}; write how many per picture, 0 for all")

    def __init__(
        self,
        stage: Stage,
        data: Mapping[str, Any],
        texts: int = 0,
        tokenizer: str | None = None,
        context: int | None = None,
        batch_size: int = 128,
    ):
        self.check_arguments(data, texts)
        super().__init__(stage, data, tokenizer, context, batch_size)
        self.most = texts or None
        ways = {"i2t": "R@{} of pictures to texts", "t2i": "R@{} of texts to pictures"}
        self.about = {
            f"{name}/{way}_r{k}": share(title.format(k), name)
            for name in self.sets
            for way, title in ways.items()
            for k in KS
        }

    def __call__(self, variables: Variables) -> dict[str, float]:
        placed, found = self.placed(variables), dict[str, float]()
        for name in self.sets:
            images, texts, owner, _ = self.embedded(placed, name)
            measures = recall(images, texts, owner)
            found |= {f"{name}/{measure}": value for measure, value in measures.items()}
        return found

    def embedded(
        self, variables: Variables, name: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Embeddings of a set's pictures [N,D] and texts [M,D], the picture of each text [M], and the texts."""
        texts: list[str] = []
        owner: list[int] = []

        def pictures() -> Iterator[np.ndarray]:
            for index, (sample, row) in enumerate(self.samples(name)):
                some = list(sample.get("texts", ()))[: self.most]
                texts.extend(some)
                owner.extend([index] * len(some))
                yield picture(row, name)

        images = np.concatenate(list(self.images(variables, pictures())))
        if not texts:
            raise UserError(
                f"evaluators.data.{name}: its samples have no texts; name a source of pairs"
            )
        return images, self.texts(variables, texts), np.array(owner), texts
