"""Makes the golden store of the format of today: `python -m tests.golden.make_golden --force`.

20 of the bundled digits, 2 views, 4 mentors of seeded, untrained weights, each with its own
encoder; blocks of 7, 7 and 6 (and 1 of padding) samples. A golden store is made anew only while its
format is not yet released; from then on it stays as it is for ever (docs/format.md, Compatibility).

format-1/          the store
format-1.npz       what every view of every mentor decodes to, float32 (N, C)
format-1.sha256    SHA-256 of the store's files and of the file above, as `sha256sum` writes them
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import kdcache
from kdcache.checkpoints import save_weights
from kdcache.mentors import load_mentor
from kdcache.models import build_network
from kdcache.store import FORMAT, layout, verify_store

FOLDER = Path(__file__).parent
ENCODER_OF = {"r8": "float32", "r14": "float16", "r20": "sqrt8", "r32": "sqrt8-zstd"}
SAMPLES, VIEWS, VIEW_SEED, ROWS = 20, 2, 12345678901234567890, 8


def make_store(root: Path, work: Path) -> None:
    """The store, through the public calls that everybody's stores are made by."""
    layout.TARGET_BLOCK = ROWS
    dataset = kdcache.open_dataset("digits", samples=SAMPLES)
    recipe = kdcache.views.CropFlip(size=8, padding=1, flip=True, seed=VIEW_SEED)
    for seed, (name, encoder) in enumerate(ENCODER_OF.items()):
        checkpoint = work / f"{name}.safetensors"
        save_weights(checkpoint, build_network(name, dataset.num_classes, seed=seed), {})
        kdcache.precompute_targets(
            dataset,
            [load_mentor(name, dataset, checkpoint)],
            store=root,
            views=VIEWS,
            recipe=recipe,
            encoder=encoder,
            device="cpu",
            batch_size=64,
        )
    for lock in root.glob(".*"):
        lock.unlink()
    assert verify_store(root).ok


def decoded(root: Path) -> dict[str, NDArray[np.float32]]:
    """Every view of every mentor, by `MENTOR/VIEW`."""
    store = kdcache.open_store(root)
    return {
        f"{name}/{view}": store.targets(view, store.index_N, [name])[:, 0]
        for name in store.mentors
        for view in range(store.num_views)
    }


def checksums(folder: Path, name: str) -> str:
    """Lines of `sha256sum`, paths relative to `folder`."""
    files = sorted(path for path in (folder / name).rglob("*") if path.is_file())
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in [*files, folder / f"{name}.npz"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="replace the store that is there")
    force = parser.parse_args().force
    name = f"format-{FORMAT}"
    root = FOLDER / name
    if root.exists() and not force:
        sys.exit(f"{root} is there, and golden stores stay as they are; --force replaces it")
    with tempfile.TemporaryDirectory() as work:
        fresh = Path(work) / name
        make_store(fresh, Path(work))
        expected = decoded(fresh)
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(fresh, root)
    np.savez_compressed(FOLDER / f"{name}.npz", allow_pickle=False, **expected)
    (FOLDER / f"{name}.sha256").write_text(checksums(FOLDER, name), newline="\n")
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    print(f"{root}: {size:,} bytes in {len(checksums(FOLDER, name).splitlines()) - 1} files")


if __name__ == "__main__":
    main()
