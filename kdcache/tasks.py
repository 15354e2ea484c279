"""What students are trained for: to name an image's class, or to find a person's joints."""

CLASSIFICATION = "classification"
POSE = "pose"

HEATMAP_STRIDE = 4  # pixels of a view, along each axis, a pixel of its heatmaps
