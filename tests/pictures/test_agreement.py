"""The captions' numbers, against a plain loop."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.datasets.skeleton import COCO_17
from kdcache.pictures.agreement import agreement


@given(st.integers(0, 2**32), st.floats(1, 1e5))
def test_it_is_what_a_plain_loop_finds(seed: int, area: float) -> None:
    random = np.random.default_rng(seed)
    points = random.uniform(0, 100, (17, 3))
    points[:, 2] /= 200
    label = random.uniform(0, 100, (17, 3))
    label[:, 2] = random.integers(0, 2, 17)
    found = agreement(points, label, sigmas=COCO_17.sigmas, area=area)
    peaks, similarities, distances = [], [], []
    for joint in range(17):
        if label[joint, 2] == 0:
            continue
        dx, dy = points[joint, 0] - label[joint, 0], points[joint, 1] - label[joint, 1]
        k = 2 * COCO_17.sigmas[joint]
        peaks.append(points[joint, 2])
        distances.append(math.hypot(dx, dy))
        similarities.append(math.exp(-(dx * dx + dy * dy) / (2 * area * k * k)))
    assert found.joints == len(peaks)
    assert found.seen == sum(peak >= 0.1 for peak in points[:, 2])
    if not peaks:
        assert (found.peak, found.oks, found.distance) == (None, None, None)
        assert str(found) == "no labelled joint in this view"
        return
    assert found.peak == pytest.approx(sum(peaks) / len(peaks))
    assert found.oks == pytest.approx(sum(similarities) / len(peaks))
    assert found.distance == pytest.approx(sum(distances) / len(peaks))
