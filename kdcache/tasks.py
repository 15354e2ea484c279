"""What students are trained for: to name an image's class, or to find a person's joints."""

CLASSIFICATION = "classification"
POSE = "pose"
