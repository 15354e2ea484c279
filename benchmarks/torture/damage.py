"""Files of a finished store damaged at random: noticed before use, never believed, healed."""

import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.torture.judging import chunk_path, damage_found, judge, read_everything
from benchmarks.torture.tally import Tally
from benchmarks.torture.world import INDEX, LOCKS, Truth, World, clear, copy, undisturbed

Damage = Callable[[Path, random.Random], str]  # does it, and says what it did


def flip_bit(path: Path, chance: random.Random) -> str:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    position, bit = chance.randrange(len(content)), chance.randrange(8)
    content[position] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {position} flipped"


def truncate(path: Path, chance: random.Random) -> str:
    """A file cut off somewhere, at nothing in every fourth case."""
    content = path.read_bytes()
    size = chance.choice([0, *[chance.randrange(len(content))] * 3])
    path.write_bytes(content[:size])
    return f"cut off at {size} of {len(content)} bytes"


def delete(path: Path, chance: random.Random) -> str:
    """A file, or a folder with everything in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return "deleted"


def measure(folder: Path, seed: int, quick: bool) -> Iterator[Tally]:
    """2,000 flips and truncations and 200 deletions, over two encoders; quick: 100 and 20."""
    for encoder in ("float16", "sqrt8-zstd"):
        truth = undisturbed(World(encoder=encoder), clear(folder / encoder / "store"))
        for damages, count in (((flip_bit, truncate), 1000), ((delete,), 100)):
            yield damage(truth, damages, folder, seed, count // 20 if quick else count)


def damage(truth: Truth, damages: tuple[Damage, ...], folder: Path, seed: int, count: int) -> Tally:
    """`count` damages: every other round of one file, the others of two to four at once."""
    names = " or ".join(damage.__name__.replace("_", " ") for damage in damages)
    tally = Tally(what=f"{names}, {truth.world.encoder}")
    chance = random.Random(f"{seed} {names}")
    work = copy(truth.root, folder / "work" / "store")
    with tally.timed():
        while tally.rounds < count:
            at_once = min(count - tally.rounds, chance.choice([1, 1, 1, 2, 3, 4]))
            done = {}
            for _ in range(at_once):
                path = _choose(work, chance, folders=delete in damages)
                if path in done or not path.exists():
                    continue
                done[path] = chance.choice(damages)(path, chance)
            how = f"round {tally.rounds} of seed {seed}: " + ", ".join(
                f"{path.relative_to(work.parent)} {what}" for path, what in done.items()
            )
            _require_noticed(work, truth, done, tally, how)
            spoiled = [key for key in truth.decoded if not _as_undisturbed(work, truth, key)]
            before = len(tally.problems)
            judge(work, truth, tally, how, readable=False, spoiled=spoiled, rounds=len(done))
            if len(tally.problems) > before:
                copy(truth.root, work)
    return tally


def _choose(root: Path, chance: random.Random, *, folders: bool) -> Path:
    """A file or folder: every kind as often as every other."""
    kinds = defaultdict(list)
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            kinds[f"folder {path.name}"].append(path)
        elif path.name not in LOCKS:
            kind = path.name if path.name in ("zarr.json", INDEX) else path.parent.name
            kinds["chunk" if path.name == "0" and kind != "c" else kind].append(path)
    if folders:
        kinds["store"] = [root]
    names = sorted(kind for kind in kinds if folders or not kind.startswith("folder"))
    return chance.choice(kinds[chance.choice(names)])


def _require_noticed(
    root: Path, truth: Truth, done: dict[Path, str], tally: Tally, how: str
) -> None:
    """Reading or verifying says so; where one file was damaged, it names that file."""
    said = "\n".join([*read_everything(root, truth).refused, *damage_found(root)])
    if not said and any(path.name != INDEX for path in done):
        tally.wrong += 1
        tally.report(how, ["nothing notices it"])
    elif len(done) == 1 and not any(path.exists() and str(path) not in said for path in done):
        return
    elif len(done) == 1:
        tally.wrong += 1
        tally.report(how, [f"what is said does not name it: {said[:300]}"])


def _as_undisturbed(root: Path, truth: Truth, key: tuple[str, int, int]) -> bool:
    chunk = chunk_path(root, key)
    expected = truth.files[str(chunk.relative_to(root))]
    return chunk.exists() and chunk.read_bytes() == expected
