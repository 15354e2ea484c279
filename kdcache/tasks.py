"""What students are trained for: to name an image's class, or to find a person's joints."""

CLASSIFICATION = "classification"
POSE = "pose"

# The kind of targets that mentors of each task have, and are taught by.
PRIMARY_OF = {CLASSIFICATION: "logits", POSE: "heatmaps"}
PRIMARY = frozenset(PRIMARY_OF.values())

HEATMAP_STRIDE = 4  # pixels of a view, along each axis, a pixel of its heatmaps
