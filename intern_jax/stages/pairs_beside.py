"""The amateur's text and view losses beside labels: an expert keeps on learning from image-text pairs.

Both share the backbone; the towers' other arrays have the names that they have in an amateur, and start from it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.core.tree import Rule
from intern_jax.stages.amateur import Amateur
from intern_jax.train.stage import Averages, Context

KIND = "pairs"
# Arrays of an amateur beside its backbone.
NAMES = r"(?:text|image_projection|word_head|projector|predictor)/.*|logit_scale|logit_bias"


class PairsBeside:
    """An amateur on another stage's backbone. `settings` are those of Amateur, but for its backbone.

    Its terms couple the rows of a batch. UserError for settings that it does not have, and for sources whose names are
    those of its terms.
    """

    def __init__(self, backbone: Mapping[str, Any], settings: Any, sources: Iterable[str]):
        known = [name for name in config_lib.parameters(Amateur) if name != "backbone"]
        if not isinstance(settings, Mapping):
            raise UserError(f"stage.pairs: {settings!r}; write {{'text': {{...}}, ...}}")
        for name in settings:
            if name not in known:
                raise UserError(f"stage.pairs.{name}: {config_lib.did_you_mean(name, known)}")
        if "text" not in settings:
            raise UserError("stage.pairs.text: missing; give the settings of the text tower")
        self.amateur = Amateur(backbone=backbone, **settings)
        for name in sources:
            if name in self.amateur.losses:
                raise UserError(
                    f"data: '{name}' names a source and a term of the pairs' loss; give the source another name"
                )

    @staticmethod
    def graft(role: str) -> Rule:
        """The rule that starts the towers from a stage that had them."""
        return rf"(params|batch_stats)/({NAMES})", rf"{role}/\1/\2"

    def check_data(self, data: Mapping[str, Any]) -> None:
        """One group of pairs, as an amateur needs it."""
        if not self.amateur.groups(data, KIND):
            raise UserError(
                "data: no group of pairs, which stage.pairs learns from; add one called pairs"
            )
        self.amateur.check_data(data)

    def init(
        self, variables: Mapping[str, Any], key: jax.Array, batch: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`variables` of the stage with those of the amateur beside them."""
        found = {name: dict(arrays) for name, arrays in variables.items()}
        for collection, arrays in self.amateur.init(jax.random.fold_in(key, 2), batch).items():
            others = {name: x for name, x in arrays.items() if name != "backbone"}
            found[collection] = {**found.get(collection, {}), **others}
        return found

    def loss(self, context: Context, extra: Any) -> tuple[Averages, tuple[Any, Averages]]:
        """The amateur's terms, and (collections after its pass, metrics)."""
        return self.amateur.loss(context.replace(extra=extra))
