"""Encoders: target <-> stored rows, each with its stated error; and the kinds of target."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.encode.encoder import Encoder
from kdcache.encode.features import Features
from kdcache.encode.fitting import UnreachableFidelity, fit_coarse, fit_residual
from kdcache.encode.float16 import Float16
from kdcache.encode.float32 import Float32
from kdcache.encode.heatmap8 import Heatmap8
from kdcache.encode.heatmaps import Heatmaps
from kdcache.encode.keypoints import Keypoints
from kdcache.encode.logits import Logits
from kdcache.encode.logsumexp import LogSumExp, raw_logits
from kdcache.encode.residual import Coarse, Residual
from kdcache.encode.sqrt8 import Sqrt8
from kdcache.encode.target_kind import TargetKind, as_source, has_source
from kdcache.errors import unknown_name
from kdcache.tasks import CLASSIFICATION, PRIMARY, PRIMARY_OF

# Of targets of any shape, number by number.
ENCODERS: dict[str, Encoder] = {
    encoder.name: encoder
    for encoder in (
        Float32(),
        Float16(),
        Sqrt8(),
        Sqrt8(name="sqrt8-zstd", compression="zstd"),
    )
}
# Of heatmaps alone: their error is of a map, and the rows of other kinds are none.
MAP_ENCODERS: dict[str, Encoder] = {encoder.name: encoder for encoder in (Heatmap8(),)}


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """An encoder that is fitted to each mentor's targets (K, C) and their labels (K,).

    `fit`: to targets, labels and a fidelity; raises UnreachableFidelity. `fidelity`: where none is
    asked for. `read`: from a description and the number of classes; raises ValueError.
    """

    fit: Callable[[NDArray[np.float32], NDArray[np.int64], float], Encoder]
    fidelity: float
    read: Callable[[Mapping[str, Any], int], Encoder]


FITTED: dict[str, Fitted] = {
    "residual": Fitted(fit=fit_residual, fidelity=1e-4, read=Residual.from_description),
    "coarse": Fitted(fit=fit_coarse, fidelity=1e-3, read=Coarse.from_description),
}
KINDS: dict[str, TargetKind] = {
    kind.name: kind for kind in (Logits(), Features(), LogSumExp(), Heatmaps(), Keypoints())
}
LOGITS, FEATURES, LOGSUMEXP = KINDS["logits"], KINDS["features"], KINDS["logsumexp"]
HEATMAPS, KEYPOINTS = KINDS["heatmaps"], KINDS["keypoints"]


def find_encoder(name: str) -> Encoder:
    """The encoder of that name, which is the same for every mentor. Raises UsageError."""
    known = {**ENCODERS, **MAP_ENCODERS}
    if name not in known:
        raise unknown_name("encoder", name, known)
    return known[name]


def encoder_from_description(described: Mapping[str, Any], num_classes: int) -> Encoder:
    """The encoder that has exactly this description, as a store's array states it.

    Raises ValueError for one that no version up to this one writes.
    """
    name = described["name"]
    encoder = ENCODERS.get(name) or MAP_ENCODERS.get(name)
    if encoder is None:
        if name not in FITTED:
            raise ValueError(f"no encoder is called {str(name)[:40]!r}")
        encoder = FITTED[name].read(described, num_classes)
    if encoder.describe() != described:
        raise ValueError(f"its arithmetic is not that of {name}")
    return encoder


def primary_kind(dataset_identity: Mapping[str, Any]) -> TargetKind:
    """The kind of targets that every mentor of a dataset has: heatmaps of people, else logits."""
    return primary_of(dataset_identity.get("task", CLASSIFICATION))


def primary_of(task: str) -> TargetKind:
    """The kind of targets that mentors of a task have."""
    return KINDS[PRIMARY_OF.get(task, LOGITS.name)]


def find_kind(name: str) -> TargetKind:
    """The kind of targets of that name. Raises UsageError for an unknown one."""
    if name not in KINDS:
        raise unknown_name("kind of targets", name, KINDS)
    return KINDS[name]


__all__ = [
    "ENCODERS",
    "FEATURES",
    "FITTED",
    "HEATMAPS",
    "KEYPOINTS",
    "KINDS",
    "PRIMARY",
    "LOGITS",
    "LOGSUMEXP",
    "MAP_ENCODERS",
    "Coarse",
    "Encoder",
    "Features",
    "Fitted",
    "Float16",
    "Float32",
    "Heatmap8",
    "Heatmaps",
    "Keypoints",
    "LogSumExp",
    "Logits",
    "Residual",
    "Sqrt8",
    "TargetKind",
    "UnreachableFidelity",
    "as_source",
    "encoder_from_description",
    "find_encoder",
    "find_kind",
    "has_source",
    "primary_kind",
    "primary_of",
    "raw_logits",
]
