"""Fuzzing: `python -m tests.hostile.fuzz [--minutes M] [--seed S] [--groups reading writing]`.

Stores, or hubs with `--hubs`.

One input is a string of bytes that chooses what is changed in the good store: values of sealed
documents, keys, raw bytes, files. Its bytes come from a seeded generator; `tests.hostile.guided`
takes them from atheris, guided by coverage. A fault ends the run with the input that shows it.
"""

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile.documents import JUNK
from tests.hostile.forging import agree, read, resealed, write
from tests.hostile.hub_forging import agree_hub
from tests.hostile.hub_ways import HUB_GROUPS
from tests.hostile.trial import GROUPS, Laboratory

MOST_BYTES = 200  # of one input
Guide = Callable[[Callable[[bytes], None], float, int], None]  # (try one input, minutes, seed)


class Choices:
    """Decisions read from a string of bytes; zeros when it ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        taken = self._data[self._at : self._at + 2]
        self._at += 2
        return int.from_bytes(taken, "little") % max(count, 1)

    def one(self, items: Any) -> Any:
        return items[self.below(len(items))]

    @property
    def ended(self) -> bool:
        return self._at >= len(self._data)


def mutate(
    choices: Choices, root: Path, outside: Path, make_agree: Callable[[Path], None] = agree
) -> None:
    """Changes the store, or hub, as the choices say."""
    for _ in range(1 + choices.below(3)):
        files = sorted(path for path in root.rglob("*") if path.is_file())
        documents = [path for path in files if path.suffix == ".json"]
        action = choices.below(8)
        if action <= 4:
            path = choices.one(documents)
            try:
                document = read(path)
            except ValueError:
                continue
            for _ in range(1 + choices.below(2)):
                document = _changed(document, choices)
            write(path, document)
        elif action == 5:
            path = choices.one(documents)
            path.write_bytes(resealed(_changed_bytes(path.read_bytes(), choices)))
        elif action == 6:
            path = choices.one(files)
            path.write_bytes(_changed_bytes(path.read_bytes(), choices))
        else:
            path = choices.one(files)
            other = choices.one(files)
            path.write_bytes(other.read_bytes())
        if choices.ended:
            break
    if choices.below(4):
        make_agree(root)


def _changed(value: Any, choices: Choices) -> Any:
    """A value with one thing in it replaced, removed, renamed or repeated."""
    path: list[tuple[Any, Any]] = []
    inner = value
    while isinstance(inner, (dict, list)) and inner and (not path or choices.below(5)):
        key = choices.one(list(inner) if isinstance(inner, dict) else range(len(inner)))
        path.append((inner, key))
        inner = inner[key]
    if not path:
        return _any(choices)
    holder, key = path[-1]
    action = choices.below(6)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[choices.one(_NAMES)] = holder.pop(key)
    elif action == 2 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif action == 3 and isinstance(inner, int):
        holder[key] = inner + choices.one([-1, 1, 2**8, 2**31, 2**32, -(2**31)])
    else:
        holder[key] = _any(choices)
    return value


_NAMES = ("name", "view", "block", "seal", "", "\x1b[2J", "encoder", "size", "__class__", "another")
_VALUES = list(JUNK.values())


def _any(choices: Choices) -> Any:
    action = choices.below(6)
    if action == 0:
        return choices.below(2**16) - 2**8
    if action == 1:
        return 2 ** choices.below(70)
    if action == 2:
        return {choices.one(_NAMES): copy.deepcopy(choices.one(_VALUES))}
    return copy.deepcopy(choices.one(_VALUES))


_TEXTS = (b"[", b'"', b"{}", b"9" * 30, b"\0", b"\xff", b"-", b"e9")


def _changed_bytes(content: bytes, choices: Choices) -> bytes:
    changed = bytearray(content)
    for _ in range(1 + choices.below(4)):
        at = choices.below(len(changed))
        action = choices.below(4)
        if action == 0 and changed:
            changed[at] ^= 1 << choices.below(8)
        elif action == 1 and changed:
            changed[at] = choices.below(256)
        elif action == 2:
            changed[at : at + choices.below(8)] = b""
        else:
            changed[at:at] = choices.one(_TEXTS)
    return bytes(changed)


def try_bytes(laboratory: Laboratory, data: bytes) -> list[str]:
    """The faults that one input shows."""
    make_agree = agree_hub if laboratory.hubs else agree
    change = partial(mutate, Choices(data), make_agree=make_agree)
    faults: list[str] = laboratory.try_store(change)["faults"]
    return faults


def _loop(one: Callable[[bytes], None], minutes: float, seed: int) -> int:
    """Tries fresh bytes until the time is over. Returns the number of inputs."""
    source, started, done = random.Random(seed), time.monotonic(), 0
    while time.monotonic() - started < 60 * minutes:
        one(source.randbytes(source.randint(4, 60)))
        done += 1
    return done


def main(guide: Guide | None = None) -> None:
    """`guide`: chooses the inputs instead of `_loop` and ends the process itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", nargs="+", default=["reading", "writing"], choices=GROUPS)
    parser.add_argument("--hubs", action="store_true", help="Hubs instead of stores.")
    parser.add_argument("--keep-going", action="store_true", help="Print faults, and go on.")
    parser.add_argument("--replay", help="One input, in hexadecimal.")
    chosen = parser.parse_args()
    groups = HUB_GROUPS if chosen.hubs else GROUPS
    ways = {name: way for group in chosen.groups for name, way in groups[group].items()}
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder) / "laboratory", ways, hubs=chosen.hubs)

        def one(data: bytes) -> None:
            faults = try_bytes(laboratory, data[:MOST_BYTES])
            if faults:
                print(json.dumps({"input": data[:MOST_BYTES].hex(), "faults": faults}), flush=True)
                if not chosen.keep_going:
                    sys.exit(1)

        if chosen.replay is not None:
            one(bytes.fromhex(chosen.replay))
        elif guide is not None:
            guide(one, chosen.minutes, chosen.seed)
        else:
            done = _loop(one, chosen.minutes, chosen.seed)
            print(json.dumps({"inputs": done, "minutes": chosen.minutes, "seed": chosen.seed}))


if __name__ == "__main__":
    main()
