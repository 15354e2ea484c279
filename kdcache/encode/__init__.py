"""Encoders: target <-> stored rows, each with its stated error; and the kinds of target."""

from kdcache.encode.encoder import Encoder
from kdcache.encode.features import Features
from kdcache.encode.float16 import Float16
from kdcache.encode.float32 import Float32
from kdcache.encode.logits import Logits
from kdcache.encode.logsumexp import LogSumExp, raw_logits
from kdcache.encode.sqrt8 import Sqrt8
from kdcache.encode.target_kind import TargetKind
from kdcache.errors import unknown_name

ENCODERS: dict[str, Encoder] = {
    encoder.name: encoder
    for encoder in (
        Float32(),
        Float16(),
        Sqrt8(),
        Sqrt8(name="sqrt8-zstd", compression="zstd"),
    )
}
KINDS: dict[str, TargetKind] = {kind.name: kind for kind in (Logits(), Features(), LogSumExp())}
LOGITS, FEATURES, LOGSUMEXP = KINDS["logits"], KINDS["features"], KINDS["logsumexp"]


def find_encoder(name: str) -> Encoder:
    """The encoder of that name. Raises UsageError for an unknown one."""
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    return ENCODERS[name]


def find_kind(name: str) -> TargetKind:
    """The kind of targets of that name. Raises UsageError for an unknown one."""
    if name not in KINDS:
        raise unknown_name("kind of targets", name, KINDS)
    return KINDS[name]


__all__ = [
    "ENCODERS",
    "FEATURES",
    "KINDS",
    "LOGITS",
    "LOGSUMEXP",
    "Encoder",
    "Features",
    "Float16",
    "Float32",
    "LogSumExp",
    "Logits",
    "Sqrt8",
    "TargetKind",
    "find_encoder",
    "find_kind",
    "raw_logits",
]
