"""Two tiny stages of the quickstart, the second starting from the first; and one benchmark row."""

from intern_jax.core.config import load_config


def get_config():
    """The quickstart, cut down."""
    config = load_config("quickstart")
    config.stages = ("amateur", "expert_cls")
    config.backbone.name = "embedded_tiny"
    for name, group in (("amateur", "pairs"), ("expert_cls", "cls")):
        config[name].data[group].batch_size = 16
        config[name].train.update(steps=4, checkpoint_every=2, log_every=1)
    benchmark = config.benchmark
    benchmark.rows = ("furniture",)
    benchmark.ladder = {"expert": {"cls": "expert_cls"}}
    benchmark.rungs = ("expert",)
    benchmark.zero_shot = None
    benchmark.scratch.fractions = (0.1,)
    benchmark.scratch.views.classification = 64
    return config
