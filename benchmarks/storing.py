"""Bytes a stored target takes with each encoder, and what real mentors lose by it."""

from collections.abc import Iterator

from benchmarks.material import Settings, find_material
from benchmarks.paired import Budget, Spread, verdict
from benchmarks.table import Row, Skipped
from kdcache.encode import ENCODERS
from kdcache.inspection import inspect_store
from kdcache.precompute import PrecomputeJob

BYTES = Budget(limit=81, aim=66, higher_is_better=False)
MOST_KL = 1e-4
WHAT = "bytes per (view, sample, mentor)"


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """Chunk files as they lie on disk, and the errors that the store recorded when it wrote them.

    The budget is for a mean KL of at most 1e-4 at every temperature.
    """
    material = find_material(settings)
    if not material.real:
        why = "needs trained mentors; set KDCACHE_DATA or give --data-dir"
        yield Skipped(what=f"{WHAT}, {', '.join(ENCODERS)}", why=why)
        return
    dataset = material.open(settings.size(full=1000, quick=100))
    for name in ENCODERS:
        store = (
            PrecomputeJob(
                dataset,
                material.load_mentors(dataset),
                store=settings.folder / name,
                views=1,
                encoder=name,
                device="cpu",
                batch_size=settings.run_shape.batch,
            )
            .run()
            .store
        )
        size = sum(
            file.stat().st_size for file in store.root.glob("mentors/*/*/c/**/*") if file.is_file()
        )
        each = size / (len(dataset) * len(store.mentors))
        measured = Spread(median=each, low=each, high=each, n=1)
        errors = [m["encoder"]["measured_error"] for m in inspect_store(store)["mentors"]]
        kl = {t: max((e.get(f"kl_t{t}", 0.0) for e in errors), default=0.0) for t in (1, 4, 12)}
        faithful = max(kl.values()) <= MOST_KL
        said = ", ".join(f"T={t} {value:.2g}" for t, value in kl.items())
        yield Row(
            what=f"{WHAT}, {name}",
            measured=measured,
            unit=" B",
            budget=BYTES,
            note=verdict(measured, BYTES) if faithful else "not met (KL)",
            detail=(
                f"greatest mean KL of a mentor: {said}; {len(dataset)} samples, one view, "
                f"{material.dataset}, {' '.join(store.mentors)}"
            ),
        )
