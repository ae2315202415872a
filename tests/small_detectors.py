"""Settings of a Faster R-CNN that learns pictures of 64 pixels on two cores in a minute."""

SMALL_RCNN = {
    "width": 64,
    "hidden": 128,
    "anchor_scale": 4.0,
    "before": (200, 100),
    "after": (100, 50),
    "anchors_sampled": 128,
    "regions_sampled": 64,
}
