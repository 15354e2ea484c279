"""The losses once more, the slow way: Python floats (float64), one sample and one mentor at a time.

Written from the formulas, in their plain form (ratios of probabilities, no stable rewriting), and
sharing no code with kdcache. `held` is the student that confidences, weights, gate, gap and
temperature are computed from: hold it while moving `student` and a finite difference gives the
gradient that detaching leaves.
"""

import math
from dataclasses import dataclass

Rows = list[list[float]]
Cube = list[list[list[float]]]


@dataclass
class Expected:
    task: float
    term: list[list[float]]
    active: list[list[bool]]
    weight: list[list[float]]
    gap: list[list[float]]
    temperature: list[list[float]]

    @property
    def mentor(self) -> float:
        return sum(map(sum, self.term)) / len(self.term)

    @property
    def total(self) -> float:
        return self.task + self.mentor


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    powers = [math.exp((z - top) / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def cross_entropy(row: list[float], label: int) -> float:
    return -math.log(softmax(row)[label])


def standardised(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((z - mean) ** 2 for z in row) / len(row))
    return [(z - mean) / max(deviation, 0.01) for z in row]


def kl(
    mentor: list[float], student: list[float], temperature: float, standardise: bool = False
) -> float:
    if standardise:
        mentor, student = standardised(mentor), standardised(student)
    p, q = softmax(mentor, temperature), softmax(student, temperature)
    return sum(p_c * math.log(p_c / q_c) for p_c, q_c in zip(p, q, strict=True))


@dataclass
class Decision:
    """What one comparison of the student and its mentors leads to."""

    task_factor: float
    active: list[bool]
    weight: list[float]
    factor: list[float]
    gap: list[float]
    temperature: list[float]


def decide(
    student: float,
    mentors: list[float],
    *,
    tau: float = 12.0,
    gate: str = "hard",
    gate_margin: float = 0.0,
    mentor_weight: str = "confidence",
    task_weight: str = "confidence",
    temperature: str = "gap",
    fixed_temperature: float = 1.0,
    gap: str | None = None,
    weighting: str = "confidence",
    rank_scale: float = 10.0,
    teachers: tuple[int, ...] = (),
    t_max: float | None = None,
    kd_scale: str | float = "sum",
    round_shares: int | None = None,
) -> Decision:
    """`student` and `mentors` are confidences: of one sample, or of a whole batch."""
    task_factor = student if task_weight == "confidence" else 1.0
    total = student + sum(mentors)
    share_s, shares = student / total, [a / total for a in mentors]
    if round_shares is not None:
        share_s = round(share_s, round_shares)
        shares = [round(share, round_shares) for share in shares]
    # Sorted by confidence; Python's sort is stable, so the student, listed first, loses ties.
    order = sorted(range(1 + len(mentors)), key=[student, *mentors].__getitem__)
    position = {k: order.index(k) + 1 for k in order}
    gap = gap or ("absolute" if weighting == "rank" else "ratio")
    active, weight, gaps, temperatures = [], [], [], []
    for m, share in enumerate(shares):
        w_m, w_s = len(mentors) * share, len(mentors) * share_s
        difference = (share - share_s) * total
        if gate != "hard":
            active.append(True)
        elif gate_margin == 0 and weighting == "rank":
            active.append(position[1 + m] > position[0])
        elif gate_margin == 0:
            active.append(w_m >= w_s)
        else:
            active.append(difference >= gate_margin)
        if mentor_weight == "one":
            weight.append(1.0)
        elif weighting == "rank":
            weight.append(mentors[m] if m in teachers else position[1 + m] / rank_scale)
        else:
            weight.append(w_m)
        if gap == "absolute":
            gaps.append(abs(mentors[m] - student))
        elif gap == "difference":
            gaps.append(max(0.0, difference))
        else:
            gaps.append(max(0.0, (w_m - w_s) / w_m) if w_m > 0 else 0.0)
        t = 1 + tau * gaps[-1] if temperature == "gap" else fixed_temperature
        temperatures.append(t if t_max is None else min(t, t_max))
    factor = [w if on else 0.0 for w, on in zip(weight, active, strict=True)]
    if kd_scale == "per-active-weight":
        sum_of_weights = sum(factor)
        factor = [f / sum_of_weights if sum_of_weights > 0 else 0.0 for f in factor]
    elif kd_scale != "sum":
        factor = [f * float(kd_scale) for f in factor]
    return Decision(task_factor, active, weight, factor, gaps, temperatures)


def classroom(
    student: Rows,
    labels: list[int],
    mentors: Cube,
    held: Rows | None = None,
    granularity: str = "sample",
    standardise: bool = False,
    **switches: object,
) -> Expected:
    held = student if held is None else held
    B, M = len(student), len(mentors[0])
    confidence_s = [softmax(held[i])[labels[i]] for i in range(B)]
    confidence_m = [[softmax(mentors[i][m])[labels[i]] for m in range(M)] for i in range(B)]
    if granularity == "batch" and switches.get("weighting") == "rank":  # the arithmetic mean
        arithmetic = [sum(row[m] for row in confidence_m) / B for m in range(M)]
        confidence_s, confidence_m = [sum(confidence_s) / B] * B, [arithmetic] * B
    elif granularity == "batch":  # the geometric mean over the batch, by logarithms
        mean_s = math.exp(sum(math.log(a) for a in confidence_s) / B)
        mean_m = [math.exp(sum(math.log(row[m]) for row in confidence_m) / B) for m in range(M)]
        confidence_s, confidence_m = [mean_s] * B, [mean_m] * B
    out = Expected(0.0, [], [], [], [], [])
    for i in range(B):
        decision = decide(confidence_s[i], confidence_m[i], **switches)  # type: ignore[arg-type]
        out.task += decision.task_factor * cross_entropy(student[i], labels[i]) / B
        out.term.append([0.0] * M)
        for m in range(M):
            if decision.active[m]:
                t = decision.temperature[m]
                divergence = kl(mentors[i][m], student[i], t, standardise)
                out.term[i][m] = decision.factor[m] * t**2 * divergence
        out.active.append(decision.active)
        out.weight.append(decision.weight)
        out.gap.append(decision.gap)
        out.temperature.append(decision.temperature)
    return out


def ce(student: Rows, labels: list[int], mentors: Cube, held: Rows | None = None) -> Expected:
    B, M = len(student), len(mentors[0])
    task = sum(cross_entropy(student[i], labels[i]) for i in range(B)) / B
    zeros = [[0.0] * M for _ in range(B)]
    return Expected(task, zeros, [[False] * M] * B, zeros, zeros, [[1.0] * M] * B)


def average(
    student: Rows,
    labels: list[int],
    mentors: Cube,
    held: Rows | None = None,
    temperature: float = 4.0,
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
    standardise: bool = False,
) -> Expected:
    B, M = len(student), len(mentors[0])
    out = Expected(0.0, [], [[True] * M] * B, [[1 / M] * M] * B, [[0.0] * M] * B, [])
    for i in range(B):
        out.task += ce_weight * cross_entropy(student[i], labels[i]) / B
        out.term.append([])
        for m in range(M):
            divergence = kl(mentors[i][m], student[i], temperature, standardise)
            out.term[i].append(kd_weight * temperature**2 * divergence / M)
        out.temperature.append([temperature] * M)
    return out
