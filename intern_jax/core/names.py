"""The dotted names that a config may use: their stable addresses, and their addresses in earlier versions.

An old name works where the thing still exists, and one line says the new one; for others a line says what to use.
Checked configs, keys and records hold the new names only.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

# The names in this package that a config may use, by kind. Other public functions may be named too, but can move.
PUBLIC: dict[str, tuple[str, ...]] = {
    "stages": (
        "intern_jax.stages.amateur:Amateur",
        "intern_jax.stages.amateur_local:AmateurLocal",
        "intern_jax.stages.expert:Expert",
        "intern_jax.stages.generalist:Generalist",
        "intern_jax.stages.merged:Merged",
        "intern_jax.stages.squeeze:Squeeze",
    ),
    "evaluators": (
        "intern_jax.stages.held_out:HeldOut",
        "intern_jax.stages.zero_shot:ZeroShot",
        "intern_jax.stages.retrieval:Retrieval",
    ),
    "losses": (
        "intern_jax.losses.classification:cross_entropy",
        "intern_jax.losses.classification:sigmoid_of_ancestors",
        "intern_jax.losses.segmentation:pixel_cross_entropy",
        "intern_jax.losses.depth:l1_log",
        "intern_jax.losses.depth:silog",
        "intern_jax.losses.contrastive:clip",
        "intern_jax.losses.contrastive:clip_crops",
        "intern_jax.losses.contrastive:clip_pairs",
        "intern_jax.losses.contrastive:multi_view",
        "intern_jax.losses.contrastive:nearest_neighbour_pairs",
        "intern_jax.losses.contrastive:sigmoid",
        "intern_jax.losses.contrastive:sigmoid_pairs",
        "intern_jax.losses.self_supervised:simsiam",
        "intern_jax.losses.words:masked_words",
    ),
    "sources": (
        "intern_jax.data.embedded:load",
        "intern_jax.data.gvb:load",
        "intern_jax.data.open.opening:open_data",
        "intern_jax.data.open.opening:open_split",
        "intern_jax.data.sources.folder:ImageFolder",
        "intern_jax.data.sources.array_record:ArrayRecordSource",
        "intern_jax.data.sources.tfds:TfdsSource",
        "intern_jax.data.sources.pool:open_pool",
        "intern_jax.data.sources.cut:PoolRows",
        "intern_jax.data.sources.cut:open_set",
        "intern_jax.data.sources.cutouts:pool_scenes",
        "intern_jax.data.sources.iconify:Iconify",
        "intern_jax.data.sources.fonts:FontLetters",
    ),
    "transforms": (
        "intern_jax.data.make.views:classification",
        "intern_jax.data.make.views:eval_classification",
        "intern_jax.data.make.views:centre_crop",
        "intern_jax.data.make.labelled:LabelledView",
        "intern_jax.data.make.pairs:PairViews",
        "intern_jax.data.make.dense:dense",
        "intern_jax.data.make.dense:crop",
        "intern_jax.data.make.boxes:boxes",
    ),
    "operations": tuple(
        f"intern_jax.data.make.{name}"
        for name in (
            *("augment:random_resized_crop", "augment:zoom", "augment:over"),
            *("augment:horizontal_flip", "augment:color_jitter", "augment:quick_jitter"),
            *("augment:grayscale", "augment:gaussian_blur", "augment:solarize"),
            *("augment:random_erasing", "rand_augment:rand_augment"),
            "rand_augment:rand_augment_timm",
        )
    ),
    "edits": tuple(
        f"intern_jax.data.make.captions:{name}" for name in ("eda", "drop_words", "block_of_words")
    ),
    "curation": (
        "intern_jax.curation.pack:pack",
        "intern_jax.curation.filters:filter_pool",
        "intern_jax.curation.duplicates:drop_duplicates",
        "intern_jax.curation.agreement:filter_by_agreement",
        "intern_jax.curation.splits:split_pool",
        "intern_jax.curation.decontaminate:decontaminate",
        "intern_jax.curation.sets.makers:maker_sets",
        "intern_jax.curation.tokenizer:train_tokenizer",
        "intern_jax.curation.report:write_report",
        "intern_jax.curation.card:write_card",
    ),
}

# Modules that moved to another room under their own name: {(old room, new room): modules}.
_ROOMS: dict[tuple[str, str], str] = {
    ("data", "data.batches"): (
        "arrays datasets mixture replacing segments settings shuffle stream workers"
    ),
    ("data", "data.make"): "image_ops",
    ("data", "data.read"): "decoding lending",
    ("data", "data.schema"): "fingerprints sample",
    ("data.sources", "data.batches"): "replacing",
    ("data.gvb", "data.gvb.classification"): "class_names folders guides packed retina tfds_rows",
    ("data.gvb", "data.gvb.scenes"): "depth voc wider",
    ("benchmark", "benchmark.rows"): "gvb published row suite",
    ("benchmark", "benchmark.scores"): "leaderboard table",
    ("benchmark.scores", "benchmark"): "scoring",
    ("weights", "weights.published"): (
        "convert metanet_names pth resnet_names torch_names vit_names"
    ),
}
# Modules that have another name too.
_OTHERS: dict[str, str] = {
    "adapt.backbone": "weights.model",
    "adapt.dense": "adapt.head",
    "adapt.finetune": "stages.finetune",
    "benchmark.record_files": "benchmark.scores.record",
    "benchmark.results": "benchmark.scores.lines",
    "data.array_record_source": "data.sources.array_record",
    "data.dense_transforms": "data.make.dense",
    "data.gvb.citypersons": "data.detection.citypersons",
    "data.gvb.detection": "data.detection.objects",
    "data.gvb.archives": "data.gvb.classification.imagenet",
    "data.gvb.classification": "data.gvb.classification.readers",
    "data.gvb.reader": "data.sources.reader",
    "data.gvb.reading": "data.read.annotations",
    "data.gvb.rows": "data.read.lists",
    "data.gvb.scenes": "data.gvb.scenes.readers",
    "data.gvb.scenes.citypersons": "data.detection.citypersons",
    "data.gvb.scenes.detection": "data.detection.objects",
    "data.open.base": "data.read.opened",
    "data.sources": "data.sources.folder",
    "data.tfds_source": "data.sources.tfds",
    "data.tokenizer": "data.make.text",
    "data.transforms": "data.make.views",
    "describe": "pipeline.describe",
    "evaluate": "benchmark.evaluation",
    "models.heads.task": "tasks.task",
    "models.image_text": "tasks.pairs",
    "models.multi_head": "tasks.multi_head",
    "weights.published_names": "weights.published.names",
}
# Single names that moved to another module than the rest of theirs, or have another name now.
_SINGLE: dict[str, str] = {
    "adapt.backbone:Backbone": "weights.model:Model",
    "adapt.backbone:start": "weights.opening:start",
    "benchmark.leaderboard:markdown": "benchmark.scores.render:markdown",
    "benchmark.leaderboard:page_data": "benchmark.scores.page:page_data",
    "benchmark.leaderboard:text": "benchmark.scores.render:text",
    "benchmark.protocol:LabelFactor": "metrics.label_efficiency:LabelFactor",
    "benchmark.protocol:binomial_error": "metrics.uncertainty:binomial_error",
    "benchmark.protocol:bootstrap_error": "metrics.uncertainty:bootstrap_error",
    "benchmark.protocol:label_equivalence": "metrics.label_efficiency:label_equivalence",
    "benchmark.published:Row": "benchmark.rows.published:PublishedRow",
    "benchmark.record_files:read_records": "benchmark.scores.record:read_folder",
    "benchmark.results:Cell": "benchmark.scores.cells:Cell",
    "benchmark.results:percent": "core.texts:percent",
    "benchmark.results:printable": "benchmark.scores.render:printable",
    "benchmark.table:csv": "benchmark.scores.render:csv",
    "benchmark.table:markdown": "benchmark.scores.render:markdown",
    "data.gvb.archives:Member": "data.read.archives:Member",
    "data.gvb.packed:read_at": "data.read.archives:read_at",
    "data.gvb.rows:Row": "data.gvb.classification.examples:Example",
    "data.gvb.rows:Rows": "data.gvb.classification.examples:Examples",
    "data.gvb.rows:file_picture": "data.gvb.classification.examples:file_picture",
    "data.gvb.rows:ranked_split": "data.gvb.classification.examples:ranked_split",
    "data.sources:ArrayRecordSource": "data.sources.array_record:ArrayRecordSource",
    "data.sources:Replacing": "data.batches.replacing:Replacing",
    "data.sources:Source": "data.schema.source:Source",
    "data.sources:Subset": "data.sources.subset:Subset",
    "data.sources:TfdsSource": "data.sources.tfds:TfdsSource",
    "data.sources:read_scored": "data.schema.source:read_scored",
    "data.transforms:dense": "data.make.dense:dense",
    "data.make.views:pair_views": "data.make.pairs:PairViews",
    "data.transforms:eval_arrays": "data.batches.arrays:eval_arrays",
    "data.transforms:pair_views": "data.make.pairs:PairViews",
    "weights.folder:Model": "weights.model:Model",
}
# Functions and classes that are no more: what to use.
_GONE: dict[str, str] = {
    "adapt.dense:DenseFit": "intern_jax.adapt.head:HeadFit",
    "adapt.dense:DenseStage": "intern_jax.stages.frozen_backbone:FrozenBackbone",
    "adapt.dense:train_dense": "intern_jax.adapt.head:train_on_pictures",
    "adapt.finetune:FrozenHead": "intern_jax.stages.frozen_backbone:FrozenBackbone",
    "adapt.finetune:task_loss": "the family's task, intern_jax.tasks.task:Task",
    "adapt.fit:task_transform": "the view of the family, intern_jax.families:Family",
    "adapt.fit:train_frozen_head": "intern_jax.adapt.head:train_on_outputs",
    "benchmark.leaderboard:wide_csv": "intern_jax.benchmark.scores.leaderboard:csv",
    "benchmark.pictures:dense_rows": "intern_jax.benchmark.pictures:of_rows",
    "benchmark.results:metrics": "intern_jax.benchmark.scores.lines:measures",
    "benchmark.results:unit": "intern_jax.benchmark.scores.lines:heading",
    "benchmark.runner:test_records": "intern_jax.benchmark.scores.cells:of_test",
    "benchmark.scoring:summary": "intern_jax.benchmark.scoring:score",
    "benchmark.settings:Dense": "intern_jax.benchmark.settings:OnPictures",
    "benchmark.settings:Panoptic": "intern_jax.benchmark.settings:Cached",
    "benchmark.table:table": "intern_jax.benchmark.scores.table:sheet",
    "metrics.classification:mean_per_class": "mean_per_class of intern_jax.metrics.table:find",
    "metrics.classification:top1": "top1 of intern_jax.metrics.table:find",
    "metrics.classification:topk": "intern_jax.metrics.classification:correct",
    "metrics.depth:abs_rel": "intern_jax.metrics.depth:measures",
    "metrics.depth:delta1": "intern_jax.metrics.depth:measures",
    "metrics.depth:image_mean": "image_rmse of intern_jax.metrics.table:find",
    "metrics.depth:image_rmse": "image_rmse of intern_jax.metrics.table:find",
    "metrics.depth:rmse": "intern_jax.metrics.depth:measures",
    "models.heads.task:check_head": "the method check_head of intern_jax.tasks.task:Task",
    "models.zoo:feature_channels": "layer_channels of the network, intern_jax.models.zoo:build",
    "models.zoo:feature_strides": "layer_strides of the network, intern_jax.models.zoo:build",
    "models.zoo:pooled_features": "features of the network, intern_jax.models.zoo:build",
    "report.plots:summarise": "intern_jax.benchmark.scores.cells:of",
    "report.style:method_color": "intern_jax.report.plots:line_looks",
    "train.stage:family_of": "the kind of a group, intern_jax.pipeline.building:kind_of",
    "weights.folder:linear_head": "the method linear of intern_jax.weights.model:Head",
    "weights.preprocess:canvas_of": "the method view of intern_jax.weights.preprocess:Preprocess",
    "weights.preprocess:resize_maps": "intern_jax.data.make.dense:bilinear",
}

# Modules that moved: a name in the first module is now in the second.
MOVED = {f"intern_jax.{old}": f"intern_jax.{new}" for old, new in _OTHERS.items()} | {
    f"intern_jax.{old}.{module}": f"intern_jax.{new}.{module}"
    for (old, new), modules in _ROOMS.items()
    for module in modules.split()
}
RENAMED = {f"intern_jax.{old}": f"intern_jax.{new}" for old, new in _SINGLE.items()}
GONE = {f"intern_jax.{old}": use for old, use in _GONE.items()}


def current(name: str) -> str:
    """The present address of a dotted name; one that did not move, or is in GONE, is returned unchanged."""
    if name in GONE:
        return name
    module, colon, attribute = name.partition(":")
    found = RENAMED.get(name) or (f"{MOVED[module]}:{attribute}" if module in MOVED else name)
    if colon and found != name:
        _told(name, found)
        return found
    return name


def all_current(settings: Any) -> Any:
    """Plain settings in which every {"fn": name} has its present address."""
    if isinstance(settings, Mapping):
        return {
            key: current(value) if key == "fn" and isinstance(value, str) else all_current(value)
            for key, value in settings.items()
        }
    if isinstance(settings, list | tuple):
        return [all_current(value) for value in settings]
    return settings


@functools.cache
def _told(old: str, new: str) -> None:
    """Log the new name, once per old name."""
    log.warning("%s is an old name; write %s", old, new)
