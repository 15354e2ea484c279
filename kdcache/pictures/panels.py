"""One person in one view, as an image: the pixels, limbs and joints on them, heatmaps over them.

Shapes: J joints, H, W of a heatmap. Points are view pixels: (0, 0) is the centre of the top left
one. A panel shows each view pixel as a square of `zoom` by `zoom`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kdcache.datasets.skeleton import Skeleton
from kdcache.heatmaps import STRIDE

HEIGHT = 512  # pixels of a panel: views are enlarged by a whole number up to it
LEFT, RIGHT, MIDDLE = "left", "right", "middle"
Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
    LEFT: (255, 140, 0),
    RIGHT: (0, 150, 255),
    MIDDLE: (120, 230, 100),
}
_OUTLINE: Colour = (16, 16, 16)
_FINER = 2  # limbs are drawn so many times as large, and made smaller: smooth edges
_DIMMED = 0.4  # how bright the photograph is under heatmaps
_GAMMA = 0.6  # shows what is faint: a map of 0.3 half covers the photograph


def zoom_of(height: int) -> int:
    """How many times as large a view of this height is shown."""
    return max(1, HEIGHT // height)


def side_of(skeleton: Skeleton, joint: int) -> str:
    """Of the person: left, right, or neither."""
    name = skeleton.joints[joint]
    return next((side for side in (LEFT, RIGHT) if name.startswith(f"{side} ")), MIDDLE)


def limb_side(skeleton: Skeleton, limb: tuple[int, int]) -> str:
    """Left and right where it touches one of them, middle where both or neither."""
    sides = {side_of(skeleton, joint) for joint in limb} - {MIDDLE}
    return sides.pop() if len(sides) == 1 else MIDDLE


def enlarged(pixels_3HW: NDArray[np.uint8]) -> Image.Image:
    """A view's pixels as a panel."""
    _, height, width = pixels_3HW.shape
    zoom = zoom_of(height)
    image = Image.fromarray(np.ascontiguousarray(pixels_3HW.transpose(1, 2, 0)))
    return image.resize((width * zoom, height * zoom), Image.Resampling.BICUBIC)


def with_pose(
    panel: Image.Image,
    points_J2: NDArray[np.floating],
    shown_J: Sequence[bool] | NDArray[np.bool_],
    skeleton: Skeleton,
    *,
    zoom: int,
    bold: int = 1,
) -> Image.Image:
    """The panel with the shown joints as discs, and limbs between those of which both are shown.

    A disc has its side's colour at least 3 panel pixels around the joint, unless another lies on
    it; joints of a higher number lie above. `bold`: how many times as thick.
    """
    fine = panel.resize((panel.width * _FINER, panel.height * _FINER), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(fine)
    at = (np.asarray(points_J2, dtype=np.float64) + 0.5) * zoom * _FINER - 0.5
    places = [tuple(place) for place in at.tolist()]
    limbs = [limb for limb in skeleton.limbs if all(shown_J[j] for j in limb)]
    for width, outlined in ((11, True), (6, False)):
        for limb in limbs:
            colour = _OUTLINE if outlined else COLOURS[limb_side(skeleton, limb)]
            draw.line([places[j] for j in limb], fill=colour, width=width * bold)
    for joint in range(skeleton.num_joints):
        if shown_J[joint]:
            x, y = places[joint]
            for radius, colour in (
                (11 * bold, _OUTLINE),
                (8 * bold, COLOURS[side_of(skeleton, joint)]),
            ):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return fine.reduce(_FINER)


def with_heatmaps(
    panel: Image.Image, heatmaps_JHW: NDArray[np.floating], skeleton: Skeleton, *, zoom: int
) -> Image.Image:
    """The panel in grey under the maps: at each pixel the highest of the left joints' maps in their
    colour, and so of the others. A map of 1, a Gaussian's peak, hides the photograph; 0 and below
    shows it alone."""
    grey = np.asarray(panel.convert("L"), dtype=np.float32)[:, :, None] * _DIMMED
    shown = np.repeat(grey, 3, axis=2)
    height, width = shown.shape[:2]
    down = _between(height, heatmaps_JHW.shape[1], zoom)
    across = _between(width, heatmaps_JHW.shape[2], zoom)
    alpha_S, coloured = [], np.zeros_like(shown)
    for side, colour in COLOURS.items():
        joints = [j for j in range(skeleton.num_joints) if side_of(skeleton, j) == side]
        if joints:
            highest_HW = np.clip(heatmaps_JHW[joints].max(axis=0), 0, 1)
            alpha_S.append((down @ highest_HW @ across.T)[:, :, None])
            coloured += alpha_S[-1] * np.array(colour, dtype=np.float32)
    alpha = np.max(alpha_S, axis=0) ** _GAMMA
    # Where sides overlap, their colours mix as their maps are high.
    shown = (1 - alpha) * shown + alpha * coloured / np.maximum(sum(alpha_S), 1e-6)
    return Image.fromarray(np.rint(shown).clip(0, 255).astype(np.uint8))


def _between(pixels: int, cells: int, zoom: int) -> NDArray[np.float32]:
    """(pixels, cells): weights that read a map at each panel pixel's place, between its cells."""
    place = ((np.arange(pixels) + 0.5) / zoom - 0.5) / STRIDE
    apart = np.abs(place.clip(0, cells - 1)[:, None] - np.arange(cells))
    weights: NDArray[np.float32] = np.maximum(1 - apart, 0).astype(np.float32)
    return weights
