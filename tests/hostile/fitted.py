"""Stores with a mentor whose encoder is fitted: levels and tables that are none, and lies."""

import base64
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.encode import LOGITS, Coarse, Residual
from kdcache.encode.levels import Levels
from kdcache.store import commit_targets, ensure_mentor, gather_commits, open_store
from tests.hostile.forging import Make, agree, attributes, edit, resealed
from tests.hostile.payloads import commit

CASES: dict[str, Make] = {}
ARRAY = "mentors/r14/logits/zarr.json"
SPARE = "mentors/r14/logits/encoder.json"
LEVELS = Levels(fine=30.0, coarse=2.4, knee=224)


def refit(root: Path, kind: type[Residual] = Residual) -> None:
    """r14's logits committed anew by a fitted encoder, as precompute does: nothing is wrong yet."""
    store = open_store(root)
    old = store.mentor("r14")
    targets = {view: store.targets(view, store.index_N, ["r14"])[:, 0] for view in (0, 1)}
    shutil.rmtree(old.array.folder)
    encoder = kind(levels=LEVELS, table=bytes(range(100)), num_classes=10)
    (old.array.group / "zarr.json").unlink()
    ensure_mentor(root, store.manifest, old.manifest, encoder, LOGITS, 2)
    stored = open_store(root).mentor("r14")
    for view, targets_NC in targets.items():
        for block in range(store.manifest.num_blocks):
            rows = store.manifest.block_rows(block)
            labels_B = store.labels_N[rows]
            commit_targets(stored, (view, block), targets_NC[rows], labels_B, store.manifest.block)
    gather_commits(stored.array, stored.identity)


def _restate(
    change: Callable[[dict[str, Any]], object], root: Path, outside: Path, kind: type[Residual]
) -> None:
    """Changes the encoder in both copies, and the records to fit."""
    refit(root, kind)
    attributes(root / ARRAY, lambda found: change(found["encoder"]))
    edit(root / SPARE, lambda found: change(found["encoder"]))
    agree(root)


def _update(values: dict[str, Any], encoder: dict[str, Any]) -> None:
    encoder.update(values)


STATED: dict[str, dict[str, Any]] = {
    "no levels": {"fine": 0.0}, "levels of NaN": {"coarse": float("nan")},
    "negative levels": {"fine": -30.0, "coarse": -2.4}, "huge levels": {"fine": 1e308},
    "tiny levels": {"coarse": 5e-324}, "finer beyond the knee": {"coarse": 2.0**10},
    "a knee far away": {"knee": 2**62}, "a knee of text": {"knee": "224"},
    "a huge integer for levels": {"fine": 10**300}, "no table": {"table": ""},
    "a table of nothing": {"table": None}, "a table for others": {"table": "AAAA"},
    "a table of 3 MB": {"table": "A" * 3_000_000}, "a table of lists": {"table": [[]] * 1000},
    "a table beyond ASCII": {"table": "\u00e9" * 136},
    "a table that is a path": {"table": "/etc/passwd"},
    "bounds of zero": {"absolute_error": 0.0, "root_error": 0.0}, "an extra": {"another": [1, 2]},
    "other arithmetic": {"arithmetic": "__import__('os').abort()"},
    "the other name": {"name": "sqrt8"}, "a name of no one": {"name": "trap:factory"},
}  # fmt: skip
for _kind in (Residual, Coarse):
    for _name, _values in STATED.items():
        CASES[f"fitted: {_kind.name}, {_name}"] = partial(
            _restate, partial(_update, _values), kind=_kind
        )


def _other_table(root: Path, outside: Path) -> None:
    """Teaches nonsense, as any store may: nothing here is wrong."""
    table = base64.b64encode(bytes(reversed(range(100)))).decode()
    _restate(partial(_update, {"table": table}), root, outside, Residual)


def _not_finite(root: Path, outside: Path) -> None:
    """The label's own value and the shift are float32 that anybody may write."""
    from numcodecs import zstd

    refit(root, Coarse)
    content = (root / "mentors/r14/logits/c/0/0/0").read_bytes()
    raw = np.frombuffer(zstd.decompress(content[:-4]), dtype=np.uint8).reshape(20, 19).copy()
    raw[:, -8:] = np.array([np.nan, np.inf], dtype="<f4").view(np.uint8)
    commit("r14", bytes(zstd.compress(raw, 1)), root, outside, view=0)


CASES["fitted: a table of anything"] = _other_table
CASES["fitted: a label's value of NaN"] = _not_finite


def _spare(change: Callable[[bytes], bytes], root: Path, outside: Path) -> None:
    refit(root)
    path = root / SPARE
    path.write_bytes(resealed(change(path.read_bytes())))
    (root / ARRAY).unlink()


SPARES: dict[str, Callable[[bytes], bytes]] = {
    "a list": lambda text: b'[{"seal": "' + b"0" * 64 + b'"}]',
    "no encoder": lambda text: b'{"seal": "' + b"0" * 64 + b'"}',
    "an encoder of text": lambda text: json.dumps({"encoder": "x", "seal": "0" * 64}).encode(),
    "5 MB": lambda text: text + b" " * 5_000_000,
    "deep lists": lambda text: b'{"encoder":' + b"[" * 100_000 + b"]" * 100_000 + b"," + text[1:],
}
for _name, _change in SPARES.items():
    CASES[f"fitted: the second copy alone is {_name}"] = partial(_spare, _change)
