"""What a checkpoint must hold to fit a run: checked against the run's own state, before use."""

from collections.abc import Iterator
from typing import Any

import torch

from kdcache.checkpoints.state_dict import is_plain_tensor
from kdcache.headline import HEADLINES

_PLAIN = (int, float, str, type(None))


def misfits(found: object, expected: object, where: str = "state") -> Iterator[str]:
    """In which places `found` is not of the same structure as `expected`; nothing if it fits.

    Dicts have the same keys, lists the same length, tensors the same shape and dtype, anything
    else the same type. An entry of a list may be None: the momentum of a weight never stepped.
    """
    if isinstance(expected, torch.Tensor):
        if not is_plain_tensor(found) or _kind(found) != _kind(expected):
            yield f"{where} is {_kind(found)}, expected {_kind(expected)}"
    elif isinstance(expected, dict):
        if not isinstance(found, dict):
            yield f"{where} is {_kind(found)}, expected a dict"
            return
        for key in expected.keys() - found.keys():
            yield f"{where} lacks {key!r}"
        for key in found.keys() - expected.keys():
            yield f"{where} has {key!r}, which this run does not know"
        for key in [key for key in expected if key in found]:
            yield from misfits(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            yield f"{where} is {_kind(found)}, expected a list of {len(expected)}"
            return
        for position, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            if ours is not None:
                yield from misfits(ours, theirs, f"{where}[{position}]")
    elif type(found) is not type(expected):
        yield f"{where} is {_kind(found)}, expected {_kind(expected)}"


def bad_records(records: object, epochs: int) -> Iterator[str]:
    """Why `records` are not those of the first `epochs` epochs; nothing if they are."""
    if not isinstance(records, list) or len(records) != epochs:
        yield f"it has {_kind(records)} as records, expected those of {epochs} epochs"
        return
    for epoch, record in enumerate(records):
        if not (isinstance(record, dict) and record.get("epoch") == epoch and _is_plain(record)):
            yield f"its record {epoch} is not one of epoch {epoch}"
        elif any(type(record.get(name)) is not float for name in ("train_loss", "seconds")) or not (
            isinstance(record.get(_headline_key(record), ""), (float, type(None)))
        ):
            yield f"its record {epoch} lacks numbers"


def _headline_key(record: dict[str, Any]) -> str:
    return next((key for key in HEADLINES if key in record), "test_top1")


def _is_plain(value: object) -> bool:
    """Whether `value` is what a line of metrics.jsonl can hold."""
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list):
        return all(_is_plain(entry) for entry in value)
    return type(value) in _PLAIN


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"of type {type(value).__name__}"
