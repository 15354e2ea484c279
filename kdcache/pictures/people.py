"""Pictures of a store's people: what its mentors, and a student, see in one view of each.

    found = draw_people("stores/coco", "pictures", people=10, against="runs/sb18-classroom")

Mentors are not loaded: their heatmaps and keypoints are the stored ones. The student, as evaluated,
runs over the replayed views. Shapes: B people, M mentors, J joints, H, W map.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kdcache import durable
from kdcache.datasets import ImageDataset
from kdcache.datasets.people import People
from kdcache.encode import HEATMAPS, KEYPOINTS
from kdcache.errors import MissingTargets, RunFailed, UsageError
from kdcache.heatmaps import decode_keypoints, gaussian_heatmaps
from kdcache.models import short_name
from kdcache.pictures.agreement import SEEN, agreement
from kdcache.pictures.panels import enlarged, with_heatmaps, with_pose, zoom_of
from kdcache.pictures.sheets import Column, contact_sheet, picture, png_bytes
from kdcache.pictures.student import Student
from kdcache.store import (
    TargetStore,
    dataset_at_hand,
    open_store,
    proven_dataset,
    view_ranges,
)
from kdcache.train.trained import find_trained
from kdcache.views import PersonRecipe

DEFAULT_PEOPLE = 10
MOST_PEOPLE = 100  # of one call: the contact sheet has a row of each
BATCH = 16
LEGEND = (
    f"Above: joints seen (peak {SEEN} or more). Below: heatmaps, opaque at 1.",
    "Peak, OKS and distance in view pixels: means over the joints labelled in this view.",
)
SHEET_LEGEND = (f"Heatmaps, opaque at 1, and joints seen (peak {SEEN} or more).", LEGEND[1])


@dataclass(frozen=True, kw_only=True)
class _Seer:
    """Who looks at a person: heatmaps (J, H, W) and keypoints (J, 3), x, y and the map's peak."""

    name: str
    heatmaps_JHW: NDArray[np.float32]
    points_J3: NDArray[np.float32]


def draw_people(
    store: TargetStore | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    people: int | Sequence[int] = DEFAULT_PEOPLE,
    view: int | None = None,
    mentors: Sequence[str] | None = None,
    against: str | os.PathLike[str] | None = None,
    network: str | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes into `folder` a PNG of each chosen person, and a contact sheet of all of them.

    `people`: how many, spread evenly over the store, or their indices; at most 100. `view`: None:
    the first that is complete. `mentors`: None: the store's. `against`: a student as
    `inspect_classroom` takes it, `network` its name where the file does not say it. Files are named
    by view, index and annotation, and replace those of the same name; each appears whole.

    Returns, as JSON: view, sheet (its path) and people, a list: index, annotation, file (the path),
    image (its name in the dataset), labelled (joints in this view) and by_mentor: for each name,
    and "student", peak, oks and distance (means over the labelled joints; None without one),
    joints, and seen, the number of maps that peak at 0.1 or above.

    Raises UsageError for a store of logits, a number of people that is not 1 to 100, a folder that
    cannot be one; MissingTargets for a view or a person that the store lacks; DatasetError,
    StoreMismatch, ReplayMismatch without the store's own data; CheckpointError for the student.
    """
    store = store if isinstance(store, TargetStore) else open_store(store)
    if store.manifest.primary is not HEATMAPS:
        raise UsageError(
            f"{store.address} is a store of {store.manifest.primary.name} of "
            f"{store.manifest.dataset['name']!r:.100}; pictures are of people: give a store of "
            "heatmaps (coco-keypoints, mpii)"
        )
    index_B = _chosen(store, people)
    names = tuple(short_name(name) for name in mentors or store.mentors)
    view = _complete_view(store, names, view)
    images = proven_dataset(store, dataset_at_hand(store, dataset, data_dir))
    student = None
    if against is not None:
        student = Student(find_trained(against, unfinished=True).load(images, network), device)
    artist = _Artist(store, images, view, names, student)
    target = Path(folder)
    of = "{name} ({split})".format_map(store.manifest.dataset)
    described = []
    rows: list[tuple[str, Sequence[Column]]] = []
    for start in range(0, len(index_B), BATCH):
        for drawn in artist(index_B[start : start + BATCH]):
            path = target / f"view{view}-index{drawn.index}-annotation{drawn.annotation}.png"
            _write(path, png_bytes(picture((of, *drawn.title), drawn.columns, LEGEND)))
            described.append({**drawn.described, "file": str(path)})
            rows.append((", ".join(drawn.title), drawn.overlaid))
            progress(len(rows), len(index_B))
    sheet = target / f"view{view}-people.png"
    title = f"{of}: {len(rows)} of {store.num_samples:,} people"
    _write(sheet, png_bytes(contact_sheet(title, rows, SHEET_LEGEND)))
    return {"view": view, "sheet": str(sheet), "people": described}


def _chosen(store: TargetStore, people: int | Sequence[int]) -> NDArray[np.int64]:
    count = people if isinstance(people, int) else len(people)
    if not 1 <= count <= MOST_PEOPLE:
        raise UsageError(
            f"pictures are of 1 to {MOST_PEOPLE} people, got {count}; give a number, or the "
            "indices of people"
        )
    if isinstance(people, int):
        spread = np.linspace(0, store.num_samples - 1, min(people, store.num_samples))
        return store.index_N[np.unique(np.rint(spread).astype(np.int64))]
    index_B = np.array(list(dict.fromkeys(people)), dtype=np.int64)
    store.positions(index_B)
    return index_B


def _complete_view(store: TargetStore, names: Sequence[str], view: int | None) -> int:
    usable = store.usable_views(
        names, None if view is None else [view], (HEATMAPS.name, KEYPOINTS.name)
    )
    if view is None or view in usable:
        return usable[0] if view is None else view
    raise MissingTargets(
        f"{store.address}: view {view} is not complete for {', '.join(names)}; usable views: "
        f"{view_ranges(usable)}. Give one of them with --view, or compute it with "
        "`kdcache precompute --views`"
    )


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """A person: `columns` with pose above heatmaps, `overlaid` with both in one panel."""

    index: int
    annotation: int
    title: tuple[str, ...]
    columns: list[Column]
    overlaid: list[Column]
    described: dict[str, Any]


class _Artist:
    """Draws people of one view, a batch at a time."""

    def __init__(
        self,
        store: TargetStore,
        images: ImageDataset,
        view: int,
        names: tuple[str, ...],
        student: Student | None,
    ) -> None:
        self._store, self._images, self._view, self._names = store, images, view, names
        self._student = student
        recipe = store.recipe
        assert isinstance(recipe, PersonRecipe), "heatmaps are of views of people"
        self._recipe = recipe
        self._skeleton = images.person_labels.people.skeleton

    def __call__(self, index_B: NDArray[np.int64]) -> list[_Drawn]:
        store, view = self._store, self._view
        people = self._images.person_labels.people.take(index_B)
        pixels_BCHW = self._recipe(self._images.images(index_B), index_B, view)
        label_BJ3 = self._recipe.joints(people, index_B, view)
        affine_B23 = self._recipe.affine(people, index_B, view)
        heatmaps_BMJHW = store.targets(view, index_B, self._names, "heatmaps")
        points_BMJ3 = store.targets(view, index_B, self._names, "keypoints")
        height, width = heatmaps_BMJHW.shape[-2:]
        truth_BJHW = gaussian_heatmaps(torch.from_numpy(label_BJ3), height, width).numpy()
        seers_B = [
            [
                _Seer(name=name, heatmaps_JHW=heatmaps_MJHW[m], points_J3=points_MJ3[m])
                for m, name in enumerate(self._names)
            ]
            for heatmaps_MJHW, points_MJ3 in zip(heatmaps_BMJHW, points_BMJ3, strict=True)
        ]
        if self._student is not None:
            found_BJHW = self._student(pixels_BCHW, self._skeleton.num_joints)
            decoded_BJ3 = decode_keypoints(found_BJHW).numpy()
            for seers, maps, points in zip(seers_B, found_BJHW.numpy(), decoded_BJ3, strict=True):
                seers.append(_Seer(name="student", heatmaps_JHW=maps, points_J3=points))
        return [
            self._drawn(
                people.take(np.array([i])),
                int(index_B[i]),
                pixels_BCHW[i],
                _Seer(name="labels", heatmaps_JHW=truth_BJHW[i], points_J3=label_BJ3[i]),
                affine_B23[i],
                seers_B[i],
            )
            for i in range(len(index_B))
        ]

    def _drawn(
        self,
        person: People,
        index: int,
        pixels_CHW: NDArray[np.uint8],
        truth: _Seer,
        affine_23: NDArray[np.float64],
        seers: Sequence[_Seer],
    ) -> _Drawn:
        """`truth`: the labels as somebody who sees them."""
        label_J3 = truth.points_J3
        size = abs(float(np.linalg.det(affine_23[:, :2])))  # view pixels of one of the image
        found = {
            seer.name: agreement(
                seer.points_J3,
                label_J3,
                sigmas=self._skeleton.sigmas,
                area=float(person.area_N[0]) * size,
            )
            for seer in seers
        }
        photo, labelled = enlarged(pixels_CHW), int((label_J3[:, 2] > 0).sum())
        said = f"{labelled} of {self._skeleton.num_joints} joints in this view"
        columns, overlaid = [], []
        for seer in (truth, *seers):
            numbers = said if seer is truth else str(found[seer.name])
            posed, heated = self._posed(photo, seer), self._heated(photo, seer)
            name = seer.name if seer is truth else f"{seer.name}, sees {found[seer.name].seen}"
            columns.append(Column(name=name, numbers=numbers, panels=(posed, heated)))
            both = self._posed(photo if seer is truth else heated, seer, bold=2)
            overlaid.append(Column(name=name, numbers=numbers, panels=(both,)))
        annotation = int(person.annotation_N[0])
        where = f"index {index}, annotation {annotation}, {person.files[0]}"
        return _Drawn(
            index=index,
            annotation=annotation,
            title=(where, f"view {self._view}: {_said_of(affine_23)}"),
            columns=columns,
            overlaid=overlaid,
            described={
                "index": index,
                "annotation": annotation,
                "image": person.files[0],
                "labelled": labelled,
                "by_mentor": {name: one.to_json() for name, one in found.items()},
            },
        )

    def _posed(self, panel: Image.Image, seer: _Seer, bold: int = 1) -> Image.Image:
        points_J3 = np.asarray(seer.points_J3, dtype=np.float64)
        # A stranger's store may say anything.
        inside_J = (
            np.abs(points_J3[:, :2]) <= 2 * max(self._recipe.height, self._recipe.width)
        ).all(1)
        shown_J = inside_J & (points_J3[:, 2] >= SEEN)
        zoom = zoom_of(self._recipe.height)
        return with_pose(panel, points_J3[:, :2], shown_J, self._skeleton, zoom=zoom, bold=bold)

    def _heated(self, panel: Image.Image, seer: _Seer) -> Image.Image:
        maps_JHW = np.nan_to_num(seer.heatmaps_JHW)
        return with_heatmaps(panel, maps_JHW, self._skeleton, zoom=zoom_of(self._recipe.height))


def _said_of(affine_23: NDArray[np.float64]) -> str:
    """What a view did to its photograph, from image coordinates to view pixels."""
    (a, b, _), (d, e, _) = affine_23.tolist()
    mirrored = a * e - b * d < 0
    turned = math.degrees(math.atan2(b, -a if mirrored else a))
    turned = -turned if mirrored else turned
    zoomed = f"{math.hypot(a, d):.2f} times as large"
    side = f"turned {abs(turned):.0f} degrees" if abs(turned) >= 0.5 else "upright"
    return ", ".join([f"photograph {zoomed}", side, *(["mirrored"] if mirrored else [])])


def _write(path: Path, content: bytes) -> None:
    try:
        durable.write_file(path, content)
    except OSError as error:
        raise RunFailed(
            f"{path} cannot be written ({error.strerror or error}); name another folder with "
            "--pictures"
        ) from error
