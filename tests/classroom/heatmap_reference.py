"""The pose losses once more, the slow way: Python floats, one joint, mentor and pixel at a time.

Written from the formulas in their plain form (ratios of confidences, exponentials that may be 0),
sharing no code with kdcache. `held` is the student that confidences, weights, gate, gap and
temperature are computed from, as in reference.py.
"""

import math
from dataclasses import dataclass, field

Map = list[list[float]]
ENERGY = math.pi * 2.0**2


@dataclass
class Expected:
    """Of B samples, M mentors and J joints; `*_BMJ` are of visible joints, else as documented."""

    task: float = 0.0
    term: list[list[float]] = field(default_factory=list)
    active: list[list[list[bool]]] = field(default_factory=list)
    weight: list[list[list[float]]] = field(default_factory=list)
    gap: list[list[list[float]]] = field(default_factory=list)
    temperature: list[list[list[float]]] = field(default_factory=list)
    student: list[list[float]] = field(default_factory=list)
    mentor_confidence: list[list[list[float]]] = field(default_factory=list)

    @property
    def mentor(self) -> float:
        return sum(map(sum, self.term)) / len(self.term)


def pixels(heatmap: Map) -> list[tuple[int, int, float]]:
    return [(x, y, value) for y, row in enumerate(heatmap) for x, value in enumerate(row)]


def gaussian(joint: list[float], like: Map) -> Map:
    x0, y0, weight = joint[0] / 4, joint[1] / 4, joint[2]
    return [
        [
            math.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 8) if weight > 0 else 0.0
            for x in range(len(like[0]))
        ]
        for y in range(len(like))
    ]


def square(one: Map, other: Map) -> float:
    return sum(
        (a - b) ** 2 for r, s in zip(one, other, strict=True) for a, b in zip(r, s, strict=True)
    )


def peak_confidence(heatmap: Map, joint: list[float], min_peak: float) -> float:
    peak = max(value for _, _, value in pixels(heatmap))
    if peak < min_peak or peak <= 0:
        return 0.0
    label = gaussian(joint, heatmap)
    shape = [[max(value, 0.0) / peak for value in row] for row in heatmap]
    energy = sum(value * value for _, _, value in pixels(label))
    return math.exp(-square(shape, label) / energy)


def quarter_pixel(heatmap: Map) -> tuple[float, float]:
    best = max(value for _, _, value in pixels(heatmap))
    x, y = next((x, y) for x, y, value in pixels(heatmap) if value == best)
    if not (1 < x < len(heatmap[0]) - 1 and 1 < y < len(heatmap) - 1):
        return x, y
    dx = heatmap[y][x + 1] - heatmap[y][x - 1]
    dy = heatmap[y + 1][x] - heatmap[y - 1][x]
    return x + 0.25 * ((dx > 0) - (dx < 0)), y + 0.25 * ((dy > 0) - (dy < 0))


def oks_confidence(
    heatmap: Map, joint: list[float], min_peak: float, sigma: float, area: float
) -> float:
    peak = max(value for _, _, value in pixels(heatmap))
    if peak < min_peak or peak <= 0:
        return 0.0
    x, y = quarter_pixel(heatmap)
    d2 = (4 * x - joint[0]) ** 2 + (4 * y - joint[1]) ** 2
    return math.exp(-d2 / (2 * area * (2 * sigma) ** 2))


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / sum(powers) for power in powers]


def spatial_kl(mentor: Map, student: Map, temperature: float, beta: float) -> float:
    p = softmax([beta * value / temperature for _, _, value in pixels(mentor)])
    q = softmax([beta * value / temperature for _, _, value in pixels(student)])
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def divergence_of(
    mentor: Map, student: Map, temperature: float, divergence: str, beta: float
) -> float:
    if divergence == "mse":
        return square(student, mentor) / ENERGY
    size = len(mentor) * len(mentor[0])
    kl = spatial_kl(mentor, student, temperature, beta)
    return 2 * size / ENERGY * (temperature / beta) ** 2 * kl


@dataclass
class Decision:
    active: list[bool]
    weight: list[float]
    factor: list[float]
    gap: list[float]
    temperature: list[float]


def decide(
    student: float,
    mentors: list[float],
    *,
    tau: float,
    gate: str,
    gate_margin: float,
    mentor_weight: str,
    temperature: str,
    fixed_temperature: float,
    gap: str,
    t_max: float | None,
    kd_scale: str | float,
) -> Decision:
    total, M = student + sum(mentors), len(mentors)
    out = Decision([], [], [], [], [])
    for a in mentors:
        if gate == "hard":
            ahead = a >= student if gate_margin == 0 else a - student >= gate_margin
            out.active.append(a > 0 and ahead)
        else:
            out.active.append(True)
        share = a / total if total > 0 else 0.0
        out.weight.append(M * share if mentor_weight == "confidence" else 1.0)
        if gap == "difference":
            out.gap.append(max(0.0, a - student))
        else:
            out.gap.append(max(0.0, 1 - student / a) if a > 0 else 0.0)
        t = 1 + tau * out.gap[-1] if temperature == "gap" else fixed_temperature
        out.temperature.append(t if t_max is None else min(t, t_max))
    out.factor = [w if on else 0.0 for w, on in zip(out.weight, out.active, strict=True)]
    if kd_scale == "per-active-weight":
        whole = sum(out.factor)
        out.factor = [f / whole if whole > 0 else 0.0 for f in out.factor]
    elif kd_scale != "sum":
        out.factor = [f * float(kd_scale) for f in out.factor]
    return out


def classroom(
    student: list[list[Map]],
    joints: list[list[list[float]]],
    mentors: list[list[list[Map]]],
    held: list[list[Map]] | None = None,
    areas: list[float] | None = None,
    *,
    granularity: str = "joint",
    confidence: str = "peak",
    min_peak: float = 0.1,
    sigmas: tuple[float, ...] = (),
    divergence: str = "mse",
    beta: float = 25.0,
    task_weight: str = "one",
    tau: float = 1.5,
    gate: str = "hard",
    gate_margin: float = 0.0,
    mentor_weight: str = "confidence",
    temperature: str = "gap",
    fixed_temperature: float = 1.0,
    gap: str = "ratio",
    t_max: float | None = None,
    kd_scale: str | float = "sum",
) -> Expected:
    held = student if held is None else held
    B, M, J = len(student), len(mentors[0]), len(student[0])
    H, W = len(student[0][0]), len(student[0][0][0])
    out = Expected()
    for i in range(B):
        area = 0.53 * 16 * H * W / 1.5625 if areas is None else areas[i]

        def measured(heatmap: Map, i: int, j: int, area: float = area) -> float:
            if joints[i][j][2] == 0:
                return 0.0
            if confidence == "peak":
                return peak_confidence(heatmap, joints[i][j], min_peak)
            return oks_confidence(heatmap, joints[i][j], min_peak, sigmas[j], area)

        visible = [j for j in range(J) if joints[i][j][2] > 0]
        a_s = [measured(held[i][j], i, j) for j in range(J)]
        a_m = [[measured(mentors[i][m][j], i, j) for j in range(J)] for m in range(M)]
        out.student.append(a_s)
        out.mentor_confidence.append(a_m)
        if granularity == "sample" and visible:
            mean_s = sum(a_s[j] for j in visible) / len(visible)
            mean_m = [sum(row[j] for j in visible) / len(visible) for row in a_m]
            a_s, a_m = [mean_s] * J, [[mean] * J for mean in mean_m]
        out.term.append([0.0] * M)
        rows = [Decision([False] * M, [0.0] * M, [], [0.0] * M, [1.0] * M) for _ in range(J)]
        for j in visible:
            rows[j] = decide(
                a_s[j],
                [row[j] for row in a_m],
                tau=tau,
                gate=gate,
                gate_margin=gate_margin,
                mentor_weight=mentor_weight,
                temperature=temperature,
                fixed_temperature=fixed_temperature,
                gap=gap,
                t_max=t_max,
                kd_scale=kd_scale,
            )
            factor = a_s[j] if task_weight == "confidence" else 1.0
            error = square(student[i][j], gaussian(joints[i][j], student[i][j])) / ENERGY
            out.task += factor * error / J / B
            for m in range(M):
                apart = divergence_of(
                    mentors[i][m][j], student[i][j], rows[j].temperature[m], divergence, beta
                )
                out.term[i][m] += rows[j].factor[m] * apart / J
        out.active.append([[row.active[m] for row in rows] for m in range(M)])
        out.weight.append([[row.weight[m] for row in rows] for m in range(M)])
        out.gap.append([[row.gap[m] for row in rows] for m in range(M)])
        out.temperature.append([[row.temperature[m] for row in rows] for m in range(M)])
    return out


def average(
    student: list[list[Map]],
    joints: list[list[list[float]]],
    mentors: list[list[list[Map]]],
    *,
    label_weight: float = 0.5,
    kd_weight: float = 0.5,
    divergence: str = "mse",
    beta: float = 25.0,
    temperature: float = 1.0,
) -> Expected:
    B, M, J = len(student), len(mentors[0]), len(student[0])
    out = Expected(term=[[0.0] * M for _ in range(B)])
    for i in range(B):
        for j in range(J):
            if joints[i][j][2] == 0:
                continue
            error = square(student[i][j], gaussian(joints[i][j], student[i][j])) / ENERGY
            out.task += label_weight * error / J / B
            for m in range(M):
                apart = divergence_of(
                    mentors[i][m][j], student[i][j], temperature, divergence, beta
                )
                out.term[i][m] += kd_weight * apart / J / M
    return out
