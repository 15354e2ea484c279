"""AMTML-KD the slow way: Python floats (float64), one sample, mentor and triple at a time.

Written from the formulas, sharing no code with kdcache. `held` is the point the relational terms'
target is computed at: hold it while moving the rest and a finite difference gives the gradient that
leaves that side alone.
"""

import math
from dataclasses import dataclass, field

from tests.classroom.reference import Cube, Rows, cross_entropy, softmax

Vector = list[float]


@dataclass
class Point:
    """Everything the loss has a gradient in."""

    student: Rows
    features: Rows
    theta: Rows
    w: Rows
    adapter: Rows = field(default_factory=list)


def weights(point: Point) -> Rows:
    rows = []
    for beta in point.features:
        alpha = [
            sum(b * t * w[0] for b, t, w in zip(beta, theta, point.w, strict=True))
            for theta in point.theta
        ]
        rows.append(softmax(alpha))
    return rows


def integrated(point: Point, mentors: Cube, tau: float) -> Rows:
    targets = []
    for mu, rows in zip(weights(point), mentors, strict=True):
        softened = [softmax(row, tau) for row in rows]
        targets.append(
            [sum(m * p[c] for m, p in zip(mu, softened, strict=True)) for c in range(len(rows[0]))]
        )
    return targets


def smooth_l1(a: float, b: float) -> float:
    apart = abs(a - b)
    return apart**2 / 2 if apart < 1 else apart - 0.5


def minus(a: Vector, b: Vector) -> Vector:
    return [x - y for x, y in zip(a, b, strict=True)]


def length(a: Vector) -> float:
    return math.sqrt(sum(x * x for x in a))


def distance_term(student: Rows, target: Rows) -> float:
    B = len(student)
    pairs = [(i, j) for i in range(B) for j in range(B)]
    apart = [[length(minus(rows[i], rows[j])) for i, j in pairs] for rows in (student, target)]
    apart = [[d / (sum(one) / (B * (B - 1))) for d in one] for one in apart] if B > 1 else apart
    return sum(smooth_l1(s, t) for s, t in zip(*apart, strict=True)) / B**2


def cosine(rows: Rows, i: int, j: int, k: int) -> float:
    a, b = minus(rows[i], rows[j]), minus(rows[k], rows[j])
    if length(a) == 0 or length(b) == 0:
        return 0.0
    return sum(x * y for x, y in zip(a, b, strict=True)) / (length(a) * length(b))


def angle_term(student: Rows, target: Rows) -> float:
    B = len(student)
    return (
        sum(
            smooth_l1(cosine(student, i, j, k), cosine(target, i, j, k))
            for i in range(B)
            for j in range(B)
            for k in range(B)
        )
        / B**3
    )


def hint(point: Point, mentor_features: list[Rows]) -> float:
    """Summed over mentors, averaged over samples."""
    total, first = 0.0, 0
    for rows in mentor_features:
        width = len(rows[0])
        adapter = point.adapter[first : first + width]
        first += width
        for beta, theirs in zip(point.features, rows, strict=True):
            unit = [b / length(beta) for b in beta]
            led = [sum(a * u for a, u in zip(row, unit, strict=True)) for row in adapter]
            goal = [v / length(theirs) for v in theirs]
            total += sum(x * x for x in minus(led, goal)) / width / len(rows)
    return total


def amtml(
    point: Point,
    labels: list[int],
    mentors: Cube,
    mentor_features: list[Rows],
    held: Point | None = None,
    *,
    phase: int = 1,
    temperature: float = 5.0,
    ce_weight: float = 0.3,
    kd_weight: float = 1.4,
    reduction: str = "batchmean",
    rkd_distance_weight: float = 1.0,
    rkd_angle_weight: float = 1.0,
    regularise: bool = False,
    hint_weight: float = 0.0,
) -> tuple[float, float]:
    """The task's and the mentors' part."""
    B, C = len(point.student), len(point.student[0])
    task = sum(cross_entropy(z, y) for z, y in zip(point.student, labels, strict=True)) / B
    softened = [softmax(z, temperature) for z in point.student]
    divergence = sum(
        q_c * math.log(q_c / s_c)
        for q, s in zip(integrated(point, mentors, temperature), softened, strict=True)
        for q_c, s_c in zip(q, s, strict=True)
    )
    mentor = kd_weight * temperature**2 * divergence / (B * C if reduction == "authors" else B)
    logs = [[math.log(s) for s in row] for row in softened]
    target = integrated(held or point, mentors, temperature)
    mentor += rkd_distance_weight * distance_term(logs, target)
    mentor += rkd_angle_weight * angle_term(logs, target)
    if regularise and phase == 1:
        squares = [x * x for row in [*point.w, *point.theta] for x in row]
        mentor += 0.1 * sum(squares)
    if hint_weight:
        mentor += hint_weight * hint(point, mentor_features)
    return ce_weight * task, mentor
