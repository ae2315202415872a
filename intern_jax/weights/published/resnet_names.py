"""Rules from the arrays of our ResNet to torchvision's names, which timm's ResNet shares."""

from intern_jax.weights.published.torch_names import Rule

TORCHVISION: tuple[Rule, ...] = (
    ("stem_conv", "conv1", "conv"),
    ("stem_norm", "bn1"),
    (r"layer(\d+)_(\d+)/conv_(\d+)", r"layer\1.\2.conv\3", "conv"),
    (r"layer(\d+)_(\d+)/norm_(\d+)", r"layer\1.\2.bn\3"),
    (r"layer(\d+)_(\d+)/shortcut_conv", r"layer\1.\2.downsample.0", "conv"),
    (r"layer(\d+)_(\d+)/shortcut_norm", r"layer\1.\2.downsample.1"),
)
