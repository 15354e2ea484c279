"""Healing small stores of digits, and what they say."""

import numpy as np

from kdcache.datasets import ImageDataset
from kdcache.mentors import Mentor
from kdcache.precompute import PrecomputeJob, PrecomputeResult
from kdcache.store import TargetStore


def heal(store: TargetStore, digits: ImageDataset, mentors: list[Mentor]) -> PrecomputeResult:
    return PrecomputeJob(digits, mentors, store=store.root, batch_size=64).run()


def values(store: TargetStore) -> np.ndarray:
    return np.stack([store.targets(view, store.index_N) for view in (0, 1)])
