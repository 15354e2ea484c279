"""How right the keypoints are that a store of people holds: AP or PCKh of each mentor.

    keypoint_accuracy(open_store("stores/coco"))        # {"sb50": {"view": 0, "ap": 61.2, ..}}

From the store and its dataset's annotations: no mentor is run, no heatmap is read. A row of
keypoints has 12 bytes a joint: 31 MB of a view of 150,000 people.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset
from kdcache.encode import HEATMAPS, KEYPOINTS
from kdcache.errors import KdcacheError, UsageError
from kdcache.inspection import inspect_store
from kdcache.models import short_name
from kdcache.store import TargetStore, dataset_at_hand, proven_dataset
from kdcache.views import PersonRecipe

AT_ONCE = 8192  # people whose keypoints are read together
UNASKED = 5000  # people, up to which nobody waits long for it: about 1 ms each and mentor


def keypoint_accuracy(
    store: TargetStore,
    *,
    mentors: Sequence[str] | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, Any]]:
    """By mentor: `view`, the first that its keypoints are complete of, and `pose_metrics` there.

    Keypoints go back to the image as the view came from it, left and right swapped back where it is
    mirrored, and are compared with the annotations by the official evaluators. Views that cut a
    person cost what they cut: it is accuracy on cached views, as top-1 of logits is. Mentors
    without a complete view are left out. `mentors`: None: all that can be opened; `dataset`: None
    means as the store says.

    Raises UsageError for a store of no people, DatasetError, StoreMismatch or ReplayMismatch
    without the store's own data, MissingTargets, DamagedTargets.
    """
    if store.manifest.primary is not HEATMAPS:
        raise UsageError(
            f"{store.address} is a store of {store.manifest.primary.name}: its mentors' accuracy "
            "is in `kdcache inspect` anyway; keypoints are of stores of people"
        )
    from kdcache.train.pose_accuracy import pose_metrics  # takes time to load

    views = _first_views(store, mentors)
    if not views:
        return {}
    images = proven_dataset(store, dataset_at_hand(store, dataset, data_dir))
    found = {}
    for done, (name, view) in enumerate(views.items()):
        progress(done, len(views))
        metrics = pose_metrics(images, _in_image(store, images, name, view))
        found[name] = {"view": view, **metrics}
    progress(len(views), len(views))
    return found


def inspect_with_accuracy(
    store: TargetStore,
    *,
    asked: bool | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """`inspect_store`, and of stores of people how right each mentor's keypoints are.

    Each mentor has `keypoints` then, its entry of `keypoint_accuracy` or None, and the first number
    of it as `accuracy`. `asked`: None: where it costs little (`keypoint_accuracy_at_hand`); true:
    in any case, raising what `keypoint_accuracy` raises; false: not at all.
    """
    found = inspect_store(store)
    is_of_people = store.manifest.primary is HEATMAPS
    accuracy: dict[str, dict[str, Any]] = {}
    if asked:
        accuracy = keypoint_accuracy(store, dataset=dataset, data_dir=data_dir, progress=progress)
    elif asked is None and is_of_people:
        accuracy = keypoint_accuracy_at_hand(store, dataset=dataset, data_dir=data_dir)
    for mentor in found["mentors"] if is_of_people else ():
        keypoints = accuracy.get(mentor["name"])
        mentor["keypoints"] = keypoints
        if keypoints is not None:
            mentor["accuracy"] = next(v for key, v in keypoints.items() if key != "view")
    return found


def keypoint_accuracy_at_hand(
    store: TargetStore, *, dataset: str | None = None, data_dir: str | None = None
) -> dict[str, dict[str, Any]]:
    """The same where it costs little, {} elsewhere: of up to 5,000 people, in a store on this
    machine whose dataset is here and is the store's. Nothing is downloaded; nothing is raised for
    what is missing or damaged."""
    is_cheap = store.remote is None and store.num_samples <= UNASKED
    if store.manifest.primary is not HEATMAPS or not is_cheap:
        return {}
    try:
        return keypoint_accuracy(store, dataset=dataset, data_dir=data_dir)
    except (KdcacheError, OSError, ValueError):  # ValueError: keypoints that are not finite
        return {}


def _first_views(store: TargetStore, mentors: Sequence[str] | None) -> dict[str, int]:
    """Of each mentor the first view that its keypoints are complete of."""
    wanted = None if mentors is None else {short_name(name) for name in mentors}
    for name in wanted or ():
        store.mentor(name, KEYPOINTS.name)
    first = {}
    for stored in store.sound_targets:
        name = stored.manifest.name
        if stored.kind is KEYPOINTS and (wanted is None or name in wanted):
            complete = stored.complete_views(store.manifest.num_blocks)
            first.update({name: complete[0]} if complete else {})
    return first


def _in_image(
    store: TargetStore, images: ImageDataset, name: str, view: int
) -> NDArray[np.float64]:
    """float64 (N, J, 3): x and y in image pixels, and the maps' peaks."""
    recipe, everyone = store.recipe, images.person_labels.people
    assert isinstance(recipe, PersonRecipe), "keypoints are of views of people"
    parts = []
    for start in range(0, store.num_samples, AT_ONCE):
        index_B = store.index_N[start : start + AT_ONCE]
        points_BJ3 = store.targets(view, index_B, [name], "keypoints")[:, 0]
        parts.append(recipe.map_back(points_BJ3, everyone.take(index_B), index_B, view))
    return np.concatenate(parts)
