"""Pictures with boxes, in the layouts in which sets for detection are published."""
