"""Fitted encoders for tests: any levels, tables and rows; and their arithmetic, plainly."""

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcache.encode import Coarse, Residual
from kdcache.encode.levels import Levels

KINDS: dict[str, type[Residual]] = {"residual": Residual, "coarse": Coarse}
LEVELS = Levels(fine=30.0, coarse=2.4, knee=224)


def make(kind: str = "residual", classes: int = 5, levels: Levels = LEVELS) -> Residual:
    table = (np.arange(classes * classes) * 7 % 256).astype(np.uint8).tobytes()
    return KINDS[kind](levels=levels, table=table, num_classes=classes)


def log_probabilities(
    random: np.random.Generator, rows: int, classes: int, spread: float = 5.0
) -> NDArray[np.float32]:
    """float32 (B, C): log-softmax of normal logits."""
    logits = random.normal(size=(rows, classes)) * spread
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    at_most_0: NDArray[np.float32] = np.minimum(log_probs, 0).astype(np.float32)
    return at_most_0


def extreme_rows(classes: int, lowest: float) -> NDArray[np.float32]:
    """p = 1, uniform, one class as low as it goes, ties, and tiny probabilities of all kinds."""
    certain = np.full(classes, lowest)
    certain[0] = 0.0
    uniform = np.full(classes, -math.log(classes))
    one_low = np.full(classes, -math.log(max(classes - 1, 1)))
    one_low[-1] = lowest
    ties = np.where(np.arange(classes) % 2, lowest / 2, lowest / 3)
    tiny = -np.geomspace(2.0**-149, -lowest, classes)
    every = np.stack([certain, uniform, one_low, ties, tiny, np.zeros(classes)])
    return every.clip(lowest, 0).astype(np.float32)


@st.composite
def encoders(draw: st.DrawFn, kind: type[Residual] | None = None) -> Residual:
    """Any residual or coarse encoder: 2 to 300 classes, any levels, any table."""
    fine = 2.0 ** draw(st.floats(-3, 8))
    levels = Levels(fine=fine, coarse=fine / draw(st.floats(1, 40)), knee=draw(st.integers(0, 255)))
    classes = draw(st.sampled_from([2, 3, 7, 10, 31, 100, 300]))
    rows = draw(st.sampled_from([1, classes]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = random.integers(0, 256, rows * classes, dtype=np.uint8).tobytes()
    chosen = kind or draw(st.sampled_from([Residual, Coarse]))
    return chosen(levels=levels, table=table, num_classes=classes)


@st.composite
def encoded(
    draw: st.DrawFn, kind: type[Residual] | None = None
) -> tuple[Residual, NDArray[np.float32], NDArray[np.int64]]:
    """An encoder, targets (B, C) that it takes, and their labels."""
    encoder = draw(encoders(kind))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes, lowest = encoder.num_classes, encoder.levels.lowest
    spread = draw(st.floats(0, 30))
    rows = [log_probabilities(random, draw(st.integers(0, 6)), classes, spread)]
    rows.append(extreme_rows(classes, max(lowest, -400.0)))
    # Where the levels reach lower than any mentor: anywhere in their range.
    rows.append(-(random.uniform(0, math.sqrt(-lowest), (3, classes)) ** 2).astype(np.float32))
    targets = np.concatenate(rows).clip(np.float32(lowest), 0).astype(np.float32)
    return encoder, targets, random.integers(0, classes, len(targets))


def plain_levels(encoder: Residual, targets: NDArray[np.float32]) -> NDArray[np.int64]:
    """The nearest levels, in exact float64 as far as it goes."""
    levels = encoder.levels
    root = np.sqrt(-targets.astype(np.float64))
    at = levels.knee / levels.fine
    exact = np.where(root <= at, root * levels.fine, levels.knee + (root - at) * levels.coarse)
    return np.rint(exact).astype(np.int64)


def plain_decode(
    description: dict[str, Any], classes: int, stored: NDArray[np.uint8], label: int
) -> NDArray[np.float32]:
    """One stored row by docs/format.md, number by number: float32 (C,)."""
    import base64

    table = base64.b64decode(description["table"])
    row = min(label, len(table) // classes - 1)
    fine, coarse = (np.float32(1 / description[key]) for key in ("fine", "coarse"))
    knee = description["knee"]
    target = np.empty(classes, dtype=np.float32)
    for c in range(classes):
        q = (int(stored[c]) + table[row * classes + c] + int(stored[classes])) % 256
        s = np.float32(min(q, knee)) * fine + np.float32(max(q - knee, 0)) * coarse
        target[c] = -(s * s)
    if description["name"] == "coarse":
        exact, shift = np.frombuffer(stored[classes + 1 :].tobytes(), dtype="<f4")
        target = (target + shift).astype(np.float32)
        target[label] = exact
    return target
