"""Settings of a Faster R-CNN for pictures of 64 pixels: one that learns in a minute, and one that only runs."""

SMALL_RCNN = {
    "width": 64,
    "hidden": 128,
    "anchor_scale": 4.0,
    "before": (200, 100),
    "after": (100, 50),
    "anchors_sampled": 128,
    "regions_sampled": 64,
}
TINY_RCNN = {
    "width": 8,
    "hidden": 16,
    "anchor_scale": 4.0,
    "before": (60, 40),
    "after": (40, 30),
    "anchors_sampled": 32,
    "regions_sampled": 16,
}
