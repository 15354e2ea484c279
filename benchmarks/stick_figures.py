"""Scenes of articulated stick figures that hide one another: pixels, joints and masks.

Figures hide one another and parts of themselves, and patches hide figures: a joint is visible (2)
where the pixel at it shows a part of its own, hidden (1) elsewhere, not labelled (0) outside the
image. Left limbs are lighter than right ones; those who face the camera have eyes and a nose.

Shapes: H, W image; J joints; x to the right, y down, (0, 0) the centre of the top left pixel.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kdcache.datasets.skeleton import COCO_17

WIDTH, HEIGHT = 320, 240
_FEWEST_VISIBLE = 4  # joints a person
_Colour = tuple[int, int, int]
Background = Callable[[np.random.Generator], NDArray[np.uint8]]

# Parts of a figure, and those at which a joint is seen, in COCO's order of joints.
_TORSO, _HEAD, _FACE = 0, 1, 2
_ARM, _FOREARM, _THIGH, _SHIN = (3, 7), (4, 8), (5, 9), (6, 10)  # left, right
_PARTS = 11
_SHOWS = (
    *((_FACE,), (_FACE,), (_FACE,), (_HEAD,), (_HEAD,)),
    *((_TORSO, part) for part in _ARM),
    *((_ARM[side], _FOREARM[side]) for side in (0, 1)),
    *((part,) for part in _FOREARM),
    *((_TORSO, part) for part in _THIGH),
    *((_THIGH[side], _SHIN[side]) for side in (0, 1)),
    *((part,) for part in _SHIN),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnPerson:
    """`joints_J3`: int64 x, y, visibility as in COCO's files; `mask_HW`: where it can be seen."""

    joints_J3: NDArray[np.int64]
    mask_HW: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """uint8 RGB pixels_HW3, the background_HW3 they were drawn on, and who is to be seen."""

    pixels_HW3: NDArray[np.uint8]
    background_HW3: NDArray[np.uint8]
    people: tuple[DrawnPerson, ...]


def draw_scene(
    number_of_people: int, address: Iterable[int], background: Background | None = None
) -> Scene:
    """A scene that is a function of `address` and the background; 4 joints of each are visible.

    Scenes in which somebody is hidden further are drawn again from the next numbers.
    """
    address = tuple(address)
    for attempt in count(1):  # 0 would be as if it were not there
        generator = np.random.default_rng((*address, attempt))
        scene = _draw(number_of_people, generator, background or gradients)
        if all((p.joints_J3[:, 2] == 2).sum() >= _FEWEST_VISIBLE for p in scene.people):
            return scene
    raise AssertionError("count() has no end")


def gradients(generator: np.random.Generator) -> NDArray[np.uint8]:
    """A linear gradient between two colours with noise: uint8 (HEIGHT, WIDTH, 3)."""
    first, second = generator.uniform(0, 255, (2, 3))
    angle = generator.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    along = math.cos(angle) * x / WIDTH + math.sin(angle) * y / HEIGHT
    along = (along - along.min()) / (along.max() - along.min())
    noise = generator.normal(0, generator.uniform(2, 20), (HEIGHT, WIDTH, 3))
    mixed = first + (second - first) * along[..., None] + noise
    pixels_HW3: NDArray[np.uint8] = mixed.clip(0, 255).astype(np.uint8)
    return pixels_HW3


class _Canvas:
    """An image, and beside it which part of whom each pixel shows: 0 nobody's."""

    def __init__(self, background_HW3: NDArray[np.uint8]) -> None:
        self.image = Image.fromarray(background_HW3)
        self.shown = Image.new("I", self.image.size)
        self._on = (ImageDraw.Draw(self.image), ImageDraw.Draw(self.shown))

    def _inks(
        self, fill: _Colour, part: int
    ) -> tuple[tuple[ImageDraw.ImageDraw, _Colour | int], ...]:
        return (self._on[0], fill), (self._on[1], part)

    def polygon(self, corners: NDArray[np.int64], fill: _Colour, part: int) -> None:
        for draw, ink in self._inks(fill, part):
            draw.polygon([tuple(corner) for corner in corners.tolist()], fill=ink)

    def disc(self, centre: NDArray[np.int64], radius: float, fill: _Colour, part: int) -> None:
        box = (*(centre - radius).tolist(), *(centre + radius).tolist())
        for draw, ink in self._inks(fill, part):
            draw.ellipse(box, fill=ink)

    def limb(
        self,
        start: NDArray[np.int64],
        end: NDArray[np.int64],
        width: int,
        fill: _Colour,
        part: int,
    ) -> None:
        for draw, ink in self._inks(fill, part):
            draw.line([tuple(start.tolist()), tuple(end.tolist())], fill=ink, width=width)
        for end_point in (start, end):
            self.disc(end_point, width / 2, fill, part)


def _draw(number: int, generator: np.random.Generator, background: Background) -> Scene:
    behind = background(generator)
    canvas = _Canvas(behind)
    figures = [_pose(generator) for _ in range(number)]
    for k, (joints_J2, size, faces) in enumerate(figures):
        _draw_figure(canvas, joints_J2, size, faces, 1 + k * _PARTS, generator)
        if generator.random() < 0.4:
            _draw_patch(canvas, joints_J2, size, generator)
    shown_HW = np.asarray(canvas.shown)
    people = []
    for k, (joints_J2, _, _) in enumerate(figures):
        first = 1 + k * _PARTS
        mask_HW = (shown_HW >= first) & (shown_HW < first + _PARTS)
        joints_J3 = np.zeros((COCO_17.num_joints, 3), dtype=np.int64)
        for j, (x, y) in enumerate(joints_J2.tolist()):
            if 0 <= x < WIDTH and 0 <= y < HEIGHT:
                seen = shown_HW[y, x] - first in _SHOWS[j]
                joints_J3[j] = x, y, 2 if seen else 1
        people.append(DrawnPerson(joints_J3=joints_J3, mask_HW=mask_HW))
    pixels_HW3 = np.asarray(canvas.image)
    return Scene(pixels_HW3=pixels_HW3, background_HW3=behind, people=tuple(people))


def _pose(generator: np.random.Generator) -> tuple[NDArray[np.int64], float, bool]:
    """Joints (J, 2) in COCO's order, body height in pixels, whether the face is to be seen."""
    size = float(generator.uniform(0.35, 0.95)) * HEIGHT
    faces = bool(generator.random() < 0.75)
    turned = generator.uniform(0.4, 1.0) * (1 if faces else -1)  # left is on the right of the image
    lean = math.radians(generator.normal(0, 12))
    up = np.array([math.sin(lean), -math.cos(lean)])
    across = np.array([-up[1], up[0]]) * turned

    def turned_from_down(angle: float, side: int, length: float) -> NDArray[np.float64]:
        """`length` bodies away from the lower end, by an angle outwards on that side."""
        return length * (math.sin(angle) * across * side - math.cos(angle) * up)

    neck, head = 0.30 * up, 0.41 * up
    point = {0: head - 0.01 * up}
    for left, side in ((1, 1), (2, -1)):
        point[left] = head + 0.02 * up + 0.03 * side * across
        point[left + 2] = head + 0.005 * up + 0.07 * side * across
        point[left + 4] = shoulder = neck + 0.12 * side * across
        arm = math.radians(generator.uniform(-10, 150))
        point[left + 6] = elbow = shoulder + turned_from_down(arm, side, 0.17)
        bend = arm + math.radians(generator.uniform(0, 130)) * generator.choice((-1, 1))
        point[left + 8] = elbow + turned_from_down(bend, side, 0.15)
        point[left + 10] = hip = 0.08 * side * across
        thigh = math.radians(generator.uniform(-15, 60))
        point[left + 12] = knee = hip + turned_from_down(thigh, side, 0.24)
        shin = thigh - math.radians(generator.uniform(0, 70))
        point[left + 14] = knee + turned_from_down(shin, side, 0.23)
    centre = generator.uniform((0.15 * WIDTH, 0.35 * HEIGHT), (0.85 * WIDTH, 0.65 * HEIGHT))
    joints_J2 = centre + size * np.stack([point[j] for j in range(COCO_17.num_joints)])
    return np.rint(joints_J2).astype(np.int64), size, faces


def _draw_figure(
    canvas: _Canvas,
    joints_J2: NDArray[np.int64],
    size: float,
    faces: bool,
    first: int,
    generator: np.random.Generator,
) -> None:
    """From back to front: legs, the far arm, torso, the near arm, head."""
    shirt, trousers = generator.uniform(40, 215, (2, 3))
    skin = np.array([224, 172, 105]) * generator.uniform(0.35, 1.1)
    arm_width, leg_width = max(3, round(0.05 * size)), max(3, round(0.07 * size))

    def leg(side: int) -> None:
        hip, knee, ankle = joints_J2[[11 + side, 13 + side, 15 + side]]
        canvas.limb(hip, knee, leg_width, _shade(trousers, side), first + _THIGH[side])
        canvas.limb(knee, ankle, leg_width, _shade(trousers, side), first + _SHIN[side])

    def arm(side: int) -> None:
        shoulder, elbow, wrist = joints_J2[[5 + side, 7 + side, 9 + side]]
        canvas.limb(shoulder, elbow, arm_width, _shade(shirt, side), first + _ARM[side])
        canvas.limb(elbow, wrist, arm_width, _shade(skin, side), first + _FOREARM[side])

    near = int(generator.integers(2))
    leg(1 - near)
    leg(near)
    arm(1 - near)
    canvas.polygon(joints_J2[[5, 6, 12, 11]], _colour(shirt), first + _TORSO)
    arm(near)
    centre = np.rint(joints_J2[3:5].mean(0)).astype(np.int64)
    radius = max(float(np.linalg.norm(joints_J2[3] - joints_J2[4])) / 2, 0.055 * size) + 1
    canvas.disc(centre, radius, _colour(skin), first + _HEAD)
    if faces:
        for j in range(3):
            canvas.disc(joints_J2[j], max(1.0, 0.012 * size), (20, 20, 30), first + _FACE)


def _draw_patch(
    canvas: _Canvas, joints_J2: NDArray[np.int64], size: float, generator: np.random.Generator
) -> None:
    """Something in front of a part of a figure, of one colour."""
    centre = joints_J2[generator.integers(len(joints_J2))]
    half = generator.uniform(0.04, 0.14, 2) * size
    corners = centre + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    fill = _colour(generator.uniform(0, 255, 3))
    canvas.polygon(np.rint(corners).astype(np.int64), fill, 0)


def _shade(colour: NDArray[np.float64], side: int) -> _Colour:
    """Lighter on the left, darker on the right."""
    return _colour(0.55 * colour + 0.45 * 255 if side == 0 else 0.6 * colour)


def _colour(colour: NDArray[np.float64]) -> _Colour:
    red, green, blue = colour.clip(0, 255).astype(int).tolist()
    return red, green, blue
