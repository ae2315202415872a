"""A first-in-first-out bank of texts' embeddings, for nearest-neighbour supervision (DeCLIP, arXiv 2110.05208).

Legend: B batch, N rows of the bank, D embedding size.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.core.config import UserError, did_you_mean
from intern_jax.losses import contrastive


@dataclasses.dataclass(frozen=True)
class Bank:
    """`size` rows, `sharded` over the mesh axis fsdp or on every device.

    With `parity`, as in DeCLIP's code, rows that do not fit before the end are dropped. Its state is
    {"rows": unit float32 [N,D], "pointer": int32, the row that is written next}.
    """

    size: int = 1 << 16
    sharded: bool = False
    parity: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None, parity: bool) -> "Bank":
        """The bank of a config's `size` and `sharded`. UserError for other settings."""
        if settings is not None and not isinstance(settings, Mapping):
            raise UserError(f"stage.bank: {settings!r}; write {{'size': 65536}}")
        for name in settings or {}:
            if name not in ("size", "sharded"):
                near = did_you_mean(name, ["size", "sharded"])
                raise UserError(f"stage.bank.{name}: no such setting of the bank; {near}")
        bank = cls(**(settings or {}), parity=parity)
        if not isinstance(bank.size, int) or bank.size < 1:
            raise UserError(f"stage.bank.size: {bank.size}; give at least 1 row, such as 65536")
        return bank

    def begin(self, key: jax.Array, width: int) -> dict[str, Any]:
        """Random directions."""
        rows = contrastive.unit(jax.random.normal(key, (self.size, width)))
        axes = ("bank" if self.sharded else None, None)
        return {"rows": nn.Partitioned(rows, axes), "pointer": jnp.zeros((), jnp.int32)}

    def search(
        self, state: Mapping[str, jax.Array], u1: jax.Array, u2: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """The texts' neighbours [B,D] in the bank as it is, and the bank after both are pushed, the second first.

        That is the order of DeCLIP's code.
        """
        rows, pointer = state["rows"], state["pointer"]
        q1, q2 = (contrastive.nearest(u, rows, self.sharded) for u in (u1, u2))
        for texts in (u2, u1):
            rows, pointer = contrastive.push(rows, pointer, texts, self.parity)
        return {"q1": q1, "q2": q2}, {"rows": rows, "pointer": pointer}
