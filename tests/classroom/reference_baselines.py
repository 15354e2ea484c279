"""The baselines' references: Python floats (float64), one sample and one mentor at a time.

Written from the formulas and sharing no code with kdcache; `held` as in reference.py, though no
weight here depends on the student.
"""

import math

from tests.classroom.reference import Cube, Expected, Rows, cross_entropy, kl, softmax


def weighted(
    student: Rows,
    labels: list[int],
    mentors: Cube,
    weights: list[list[float]],
    temperature: float = 4.0,
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
) -> Expected:
    B, M = len(student), len(mentors[0])
    task = sum(ce_weight * cross_entropy(student[i], labels[i]) for i in range(B)) / B
    term = zeros(B, M)
    for i in range(B):
        for m in range(M):
            divergence = kl(mentors[i][m], student[i], temperature)
            term[i][m] = kd_weight * weights[i][m] * temperature**2 * divergence
    return expected(task, term, weights, temperature)


def zeros(B: int, M: int) -> list[list[float]]:
    return [[0.0] * M for _ in range(B)]


def expected(
    task: float, term: list[list[float]], weights: list[list[float]], temperature: float
) -> Expected:
    """Without a gate and without a gap."""
    B, M = len(weights), len(weights[0])
    return Expected(
        task,
        term,
        [[True] * M for _ in range(B)],
        weights,
        zeros(B, M),
        [[temperature] * M for _ in range(B)],
    )


def soft(
    student: Rows, labels: list[int], mentors: Cube, held: Rows | None = None, **switches: float
) -> Expected:
    weights = []
    for rows, label in zip(mentors, labels, strict=True):
        confidences = [softmax(row)[label] for row in rows]
        weights.append([a / sum(confidences) for a in confidences])
    return weighted(student, labels, mentors, weights, **switches)


def ca_mkd(
    student: Rows,
    labels: list[int],
    mentors: Cube,
    held: Rows | None = None,
    divide_by_k: bool = False,
    **switches: float,
) -> Expected:
    weights = []
    for rows, label in zip(mentors, labels, strict=True):
        powers = [math.exp(cross_entropy(row, label)) for row in rows]
        row_weights = [(1 - power / sum(powers)) / (len(rows) - 1) for power in powers]
        weights.append([w / len(rows) if divide_by_k else w for w in row_weights])
    return weighted(student, labels, mentors, weights, **switches)


def ebkd(
    student: Rows, labels: list[int], mentors: Cube, held: Rows | None = None, **switches: float
) -> Expected:
    weights = []
    for rows in mentors:
        entropies = [-sum(p * math.log(p) for p in softmax(row)) for row in rows]
        weights.append([(1 - h / sum(entropies)) / (len(rows) - 1) for h in entropies])
    return weighted(student, labels, mentors, weights, **switches)


def dkd(
    student: Rows,
    labels: list[int],
    mentors: Cube,
    held: Rows | None = None,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    ce_weight: float = 1.0,
    strength: float = 1.0,
) -> Expected:
    B, M = len(student), len(mentors[0])
    task = sum(ce_weight * cross_entropy(student[i], labels[i]) for i in range(B)) / B
    term = zeros(B, M)
    for i, label in enumerate(labels):
        for m in range(M):
            p, q = softmax(mentors[i][m], temperature), softmax(student[i], temperature)
            target = p[label] * math.log(p[label] / q[label])
            target += (1 - p[label]) * math.log((1 - p[label]) / (1 - q[label]))
            others = 0.0
            for c in range(len(p)):
                if c != label:
                    p_hat, q_hat = p[c] / (1 - p[label]), q[c] / (1 - q[label])
                    others += p_hat * math.log(p_hat / q_hat)
            term[i][m] = strength * temperature**2 * (alpha * target + beta * others) / M
    return expected(task, term, [[1 / M] * M for _ in range(B)], temperature)


def pearson(one: list[float], other: list[float]) -> float:
    mean_one, mean_other = sum(one) / len(one), sum(other) / len(other)
    together = sum((a - mean_one) * (b - mean_other) for a, b in zip(one, other, strict=True))
    norm_one = math.sqrt(sum((a - mean_one) ** 2 for a in one))
    norm_other = math.sqrt(sum((b - mean_other) ** 2 for b in other))
    return together / (norm_one * norm_other + 1e-8)


def dist(
    student: Rows,
    labels: list[int],
    mentors: Cube,
    held: Rows | None = None,
    beta: float = 2.0,
    gamma: float = 2.0,
    temperature: float = 4.0,
    ce_weight: float = 1.0,
) -> Expected:
    B, M, C = len(student), len(mentors[0]), len(student[0])
    task = sum(ce_weight * cross_entropy(student[i], labels[i]) for i in range(B)) / B
    q = [softmax(row, temperature) for row in student]
    term = zeros(B, M)
    for m in range(M):
        p = [softmax(rows[m], temperature) for rows in mentors]
        intra = 0.0
        for c in range(C):
            intra += (1 - pearson([row[c] for row in p], [row[c] for row in q])) / C
        for i in range(B):
            inter = 1 - pearson(p[i], q[i])
            term[i][m] = temperature**2 * (beta * inter + gamma * intra) / M
    return expected(task, term, [[1 / M] * M for _ in range(B)], temperature)


def logit_mse(
    student: Rows,
    labels: list[int],
    mentors: Cube,
    held: Rows | None = None,
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
) -> Expected:
    B, M, C = len(student), len(mentors[0]), len(student[0])
    task = sum(ce_weight * cross_entropy(student[i], labels[i]) for i in range(B)) / B
    term = zeros(B, M)
    for i in range(B):
        for m in range(M):
            for c in range(C):
                term[i][m] += kd_weight * (student[i][c] - mentors[i][m][c]) ** 2 / (2 * C * M)
    return expected(task, term, [[1 / M] * M for _ in range(B)], 1.0)
