"""How right predicted keypoints are: COCO's AP and AR, MPII's PCKh@0.5.

Shapes: N people, J joints. Predictions `keypoints_NJ3` are x, y of the image's pixels and a score,
one row per person of `People`, in its order: each was predicted in the person's annotated box.
"""

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdcache.datasets.annotation_file import Ignored
from kdcache.datasets.people import People
from kdcache.errors import DatasetError

SCORED = 0.2  # joints that score more make up a person's score

# Xiao et al. and HRNet (lib/dataset/mpii.py): the table's columns, each the mean of its joints;
# "head" is the head's top alone.
PCKH_GROUPS = {
    "head": ("head top",),
    "shoulder": ("left shoulder", "right shoulder"),
    "elbow": ("left elbow", "right elbow"),
    "wrist": ("left wrist", "right wrist"),
    "hip": ("left hip", "right hip"),
    "knee": ("left knee", "right knee"),
    "ankle": ("left ankle", "right ankle"),
}
NOT_IN_TOTAL = ("pelvis", "thorax")


def person_scores(
    keypoints_NJ3: ArrayLike, box_scores_N: ArrayLike | None = None
) -> NDArray[np.float64]:
    """float64 (N,): the mean score of the joints above 0.2, times the box's (default 1).

    0 for a person without such a joint. All as SimpleBaseline does (lib/dataset/coco.py).
    """
    scores_NJ = np.asarray(keypoints_NJ3, dtype=np.float64)[..., 2]
    counted_NJ = scores_NJ > SCORED
    mean_N: NDArray[np.float64] = (scores_NJ * counted_NJ).sum(-1) / np.maximum(
        counted_NJ.sum(-1), 1
    )
    return mean_N if box_scores_N is None else mean_N * np.asarray(box_scores_N, dtype=np.float64)


def coco_metrics(
    people: People,
    keypoints_NJ3: ArrayLike,
    *,
    box_scores_N: ArrayLike | None = None,
    ignored: Ignored | None = None,
) -> dict[str, float]:
    """Percent `ap`, `ap50`, `ap75` and `ar` over OKS 0.50:0.05:0.95, by COCO's own evaluator.

    Ground truth: `people`, and those of `ignored` on their images, which a prediction may match
    without harm, as officially (crowds, people without labelled joints). At most 20 predictions an
    image, as officially. Constants of OKS: the skeleton's `sigmas`. Near-duplicates are not
    suppressed (SimpleBaseline does so among detected boxes; here every person has one box).
    Raises ValueError for predictions of another shape or that are not finite.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    keypoints_NJ3 = _checked(people, keypoints_NJ3)
    truth = COCO()
    scores_N = person_scores(keypoints_NJ3, box_scores_N)
    predictions = [
        {
            "image_id": int(image),
            "category_id": 1,
            "keypoints": keypoints_J3.ravel().tolist(),
            "score": float(score),
        }
        for image, keypoints_J3, score in zip(people.image_N, keypoints_NJ3, scores_N, strict=True)
    ]
    truth.dataset = {
        "images": [{"id": int(image)} for image in np.unique(people.image_N)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": _truth(people, ignored),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress and its table
        truth.createIndex()
        found = truth.loadRes(predictions)
        evaluator = COCOeval(truth, found, "keypoints")
        evaluator.params.kpt_oks_sigmas = np.asarray(people.skeleton.sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    ap, ap50, ap75, _, _, ar = (100 * float(value) for value in evaluator.stats[:6])
    return {"ap": ap, "ap50": ap50, "ap75": ap75, "ar": ar}


def pckh(people: People, keypoints_NJ3: ArrayLike) -> dict[str, Any]:
    """PCKh@0.5 (Andriluka et al. 2014) in percent, of MPII's 16 joints.

    A labelled joint is right when it is at most half a head away. `pckh`: of all labelled joints
    but pelvis and thorax, as HRNet does (lib/dataset/mpii.py); one number for each of
    `PCKH_GROUPS`, the mean of its joints', None where none is labelled. `head_size` says where
    head sizes are from: `People.head_N` (0.6 of the head box's diagonal), or, where that is NaN,
    the distance from upper neck to head top; people of neither are not counted. `people`: how many
    are. Raises ValueError for predictions of another shape or that are not finite, or for another
    skeleton; DatasetError when nobody has a head size.
    """
    joints = people.skeleton.joints
    if not {name for group in PCKH_GROUPS.values() for name in group} <= set(joints):
        raise ValueError(f"PCKh is of MPII's joints, these people have {people.skeleton.name}")
    keypoints_NJ3 = _checked(people, keypoints_NJ3)
    head_N, said = _head_sizes(people)
    sized_N = head_N > 0  # not NaN
    labelled_NJ = (people.joints_NJ3[..., 2] > 0) & sized_N[:, None]
    away_NJ = np.linalg.norm(keypoints_NJ3[..., :2] - people.joints_NJ3[..., :2], axis=-1)
    right_NJ = (away_NJ <= 0.5 * np.where(sized_N, head_N, 1)[:, None]) & labelled_NJ
    labelled_J, right_J = labelled_NJ.sum(0), right_NJ.sum(0)

    def percent(name: str) -> float | None:
        joint = joints.index(name)
        return 100 * float(right_J[joint] / labelled_J[joint]) if labelled_J[joint] else None

    counted = [j for j, name in enumerate(joints) if name not in NOT_IN_TOTAL]
    if not labelled_J[counted].sum():
        raise DatasetError(
            "PCKh needs head sizes: nobody here has a head box, or upper neck and head top labelled"
        )
    groups: dict[str, float | None] = {}
    for group, names in PCKH_GROUPS.items():
        known = [value for value in map(percent, names) if value is not None]
        groups[group] = sum(known) / len(known) if known else None
    total = 100 * float(right_J[counted].sum() / labelled_J[counted].sum())
    return {"pckh": total, **groups, "people": int(sized_N.sum()), "head_size": said}


def _head_sizes(people: People) -> tuple[NDArray[np.float64], str]:
    """Pixels (N,), NaN or 0 where unknown; and where they are from, in words."""
    neck, top = (people.skeleton.joints.index(name) for name in ("upper neck", "head top"))
    boxed_N = people.head_N > 0
    both_N = (people.joints_NJ3[:, [neck, top], 2] > 0).all(-1)
    length_N = np.linalg.norm(
        people.joints_NJ3[:, neck, :2] - people.joints_NJ3[:, top, :2], axis=-1
    )
    measured_N = ~boxed_N & both_N & (length_N > 0)
    head_N = np.where(boxed_N, people.head_N, np.where(measured_N, length_N, np.nan))
    sources = {
        "the head box": int(boxed_N.sum()),
        "upper neck to head top": int(measured_N.sum()),
    }
    everyone = len(people)
    used = [f"{source} ({n:,} of {everyone:,} people)" for source, n in sources.items() if n]
    said = "head size from " + " and ".join(used)
    left_out = everyone - sum(sources.values())
    return head_N, said + (f"; without one, left out: {left_out:,}" if left_out else "")


def _truth(people: People, ignored: Ignored | None) -> list[dict[str, Any]]:
    """The evaluator's annotations. Ids count from 1: it takes id 0 for "not matched"."""
    joints_NJ3 = people.joints_NJ3
    flat = joints_NJ3.reshape(len(people), -1)
    entries = [
        {
            "image_id": int(people.image_N[i]),
            "bbox": people.box_N4[i].tolist(),
            "area": float(people.area_N[i]),
            "keypoints": flat[i].tolist(),
            "num_keypoints": int((joints_NJ3[i, :, 2] > 0).sum()),
            "iscrowd": 0,
        }
        for i in range(len(people))
    ]
    if ignored is not None:
        nothing = [0.0] * flat.shape[1]
        entries += [
            {
                "image_id": int(ignored.image_N[i]),
                "bbox": ignored.box_N4[i].tolist(),
                "area": float(ignored.area_N[i]),
                "keypoints": nothing,
                "num_keypoints": 0,
                "iscrowd": int(ignored.crowd_N[i]),
            }
            for i in np.flatnonzero(np.isin(ignored.image_N, people.image_N)).tolist()
        ]
    return [{**e, "id": i, "category_id": 1} for i, e in enumerate(entries, start=1)]


def _checked(people: People, keypoints_NJ3: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(keypoints_NJ3, dtype=np.float64)
    wanted = (len(people), people.skeleton.num_joints, 3)
    if array.shape != wanted or not len(people):
        raise ValueError(f"keypoints must be (people, joints, 3) = {wanted}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("keypoints must be finite: some predicted x, y or score is not")
    return array
