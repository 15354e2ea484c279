"""Training: one loop, its schedule, its checkpoints; yields records."""

from kdcache.headline import headline
from kdcache.train.evaluation import evaluate_checkpoint, evaluate_network
from kdcache.train.mentor import train_mentor
from kdcache.train.student import train_student
from kdcache.train.sweep import train_sweep
from kdcache.train.task_defaults import with_defaults
from kdcache.train.train_config import TrainConfig

__all__ = [
    "TrainConfig",
    "evaluate_checkpoint",
    "evaluate_network",
    "headline",
    "train_mentor",
    "train_student",
    "train_sweep",
    "with_defaults",
]
