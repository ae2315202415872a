"""Rules from the arrays of our ViT to the names of timm (and DINO), and of open_clip's image tower."""

from intern_jax.weights.published.torch_names import Rule

# The last two rules are for CLIP's towers in timm, whose `head` also has a bias (names.py: Layout.zeros).
TIMM: tuple[Rule, ...] = (
    ("patch_embed", "patch_embed.proj", "conv"),
    ("cls_token", "cls_token", "tokens"),
    ("position_embedding", "pos_embed", "tokens"),
    (r"blocks_(\d+)/attention_norm", r"blocks.\1.norm1"),
    (r"blocks_(\d+)/attention/qkv", r"blocks.\1.attn.qkv", "linear"),
    (r"blocks_(\d+)/attention/project", r"blocks.\1.attn.proj", "linear"),
    (r"blocks_(\d+)/mlp_norm", r"blocks.\1.norm2"),
    (r"blocks_(\d+)/mlp_expand", r"blocks.\1.mlp.fc1", "linear"),
    (r"blocks_(\d+)/mlp_project", r"blocks.\1.mlp.fc2", "linear"),
    ("norm", "norm"),
    ("norm_pre", "norm_pre"),
    ("projection", "head", "linear"),
)

# The names below "visual."; a patch embedding with a bias has no place here.
OPEN_CLIP: tuple[Rule, ...] = (
    ("patch_embed/kernel", "conv1.weight", "conv"),
    ("cls_token", "class_embedding"),
    ("position_embedding", "positional_embedding"),
    ("norm_pre", "ln_pre"),
    (r"blocks_(\d+)/attention_norm", r"transformer.resblocks.\1.ln_1"),
    (
        r"blocks_(\d+)/attention/qkv/kernel",
        r"transformer.resblocks.\1.attn.in_proj_weight",
        "linear",
    ),
    (r"blocks_(\d+)/attention/qkv/bias", r"transformer.resblocks.\1.attn.in_proj_bias"),
    (r"blocks_(\d+)/attention/project", r"transformer.resblocks.\1.attn.out_proj", "linear"),
    (r"blocks_(\d+)/mlp_norm", r"transformer.resblocks.\1.ln_2"),
    (r"blocks_(\d+)/mlp_expand", r"transformer.resblocks.\1.mlp.c_fc", "linear"),
    (r"blocks_(\d+)/mlp_project", r"transformer.resblocks.\1.mlp.c_proj", "linear"),
    ("norm", "ln_post"),
    # open_clip computes x @ proj, with inputs before outputs like ours.
    ("projection/kernel", "proj"),
)
