"""What a hub's index says of a store."""

from kdcache.store.gathered import GatheredArray, GatheredStore
from kdcache.store.hub_documents import ListedStore, ListedTargets


def list_store(gathered: GatheredStore, pushes: tuple[str, ...]) -> ListedStore:
    """What the index says of a store."""
    dataset = gathered.manifest.dataset
    return ListedStore(
        fingerprint=gathered.manifest.fingerprint,
        dataset=dataset["name"],
        split=dataset["split"],
        samples=dataset["num_samples"],
        classes=dataset["num_classes"],
        recipe=gathered.manifest.recipe["name"],
        view_seed=gathered.manifest.view_seed,
        targets=tuple(
            _list_targets(array, gathered.manifest.num_blocks)
            for array in sorted(gathered.arrays.values(), key=_by_name)
        ),
        pushes=tuple(sorted(pushes)),
    )


def _by_name(array: GatheredArray) -> tuple[str, str, str]:
    return array.name, array.kind, array.identity


def _list_targets(array: GatheredArray, num_blocks: int) -> ListedTargets:
    shape = array.mentor["run_shape"]
    return ListedTargets(
        identity=array.identity,
        mentor=array.name,
        architecture=array.mentor["architecture"],
        checkpoint_sha256=array.mentor["checkpoint_sha256"],
        precision=str(shape.get("precision", "-"))[:40],
        batch=batch if type(batch := shape.get("batch")) is int and 0 <= batch < 2**64 else 0,
        kind=array.kind,
        encoder=array.encoder["name"],
        views=array.views,
        complete_views=array.complete_views(num_blocks),
        chunks=len(array.records),
        bytes=array.num_bytes,
        accuracy=array.accuracy,
    )
