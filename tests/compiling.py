"""How tests compile programs that run once: XLA:CPU without its optimisations is several times quicker at it."""

import jax

# Options of lower().compile(); newer versions have the second no more.
QUICK: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    QUICK["xla_cpu_use_fusion_emitters"] = False
