"""What an array states of a fitted encoder: pinned, and nothing else is taken for one."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from kdcache.encode import ENCODERS, FITTED, Coarse, Encoder, Residual, encoder_from_description
from kdcache.encode.levels import Levels
from tests.encode.fitted import KINDS, encoders, make


@settings(deadline=None, max_examples=50)
@given(encoder=encoders())
def test_a_description_round_trips_through_json(encoder: Residual) -> None:
    described = json.loads(json.dumps(encoder.describe()))
    again = encoder_from_description(described, encoder.num_classes)
    assert again == encoder
    assert again.describe() == described
    summary = encoder.summary()
    assert set(described) - set(summary) == {"table"}
    assert set(summary) - set(described) == {"table_sha256"}
    assert not encoder.exact


def test_fitted_encoders_are_no_others() -> None:
    assert not set(FITTED) & set(ENCODERS)
    assert set(FITTED) == set(KINDS)


def test_descriptions_are_pinned() -> None:
    encoder = make(levels=Levels(fine=32.0, coarse=4.0, knee=224))
    step, slack = 0.25, 1 + 2.0**-11
    arithmetic = (
        "p = table[min(label, rows - 1)]; q = (stored[0..C-1] + p + stored[C]) mod 256; "
        "s = min(q, knee) * float32(1 / fine) + max(q - knee, 0) * float32(1 / coarse); "
        "target = -(s * s), in float32; stored[C] = 128: no target"
    )
    expected: dict[str, Any] = {
        "name": "residual",
        "arithmetic": arithmetic,
        "relative_error": 0.0,
        "absolute_error": step * step / 4 * slack,
        "root_error": step * slack,
        "fine": 32.0,
        "coarse": 4.0,
        "knee": 224,
        "table": base64.b64encode(encoder.table).decode(),
    }
    assert encoder.describe() == expected
    coarse = make("coarse", levels=encoder.levels)
    furthest = 224 / 32 + 31 / 4
    assert coarse.describe() == {
        **expected,
        "name": "coarse",
        "arithmetic": arithmetic
        + "; then target[c] = target[c] + shift for c other than the label, target[label] = exact; "
        "exact, shift = the two little-endian float32 in stored[C+1..C+8]",
        "absolute_error": 2 * (step * step / 4 * slack) + step * slack * furthest,
    }


def test_golden_bytes() -> None:
    levels = Levels(fine=32.0, coarse=4.0, knee=224)
    table = bytes([10, 60, 70, 60, 10, 70, 60, 70, 10])
    targets = np.array([[-0.01, -4.75, -6.0], [-3.0, -0.0625, -64.0]], dtype=np.float32)
    labels_B = np.array([0, 1])
    residual = Residual(levels=levels, table=table, num_classes=3)
    stored = residual.encode(targets, labels_B)
    # levels 3 70 78 and 55 8 228, less the table -7 10 8 and -5 -2 158, less their means 4 and 50
    assert stored.tobytes() == bytes([245, 6, 4, 4, 201, 204, 108, 50])
    decoded = residual.round_trip(stored, labels_B)
    expected = [
        [-((3 / 32) ** 2), -((70 / 32) ** 2), -((78 / 32) ** 2)],
        [-((55 / 32) ** 2), -0.0625, -64.0],
    ]
    assert decoded.tolist() == expected
    coarse = Coarse(levels=levels, table=table, num_classes=3).encode(targets, labels_B)
    assert coarse[:, :4].tobytes() == stored.tobytes()
    exact_B2 = coarse[:, 4:].copy().view("<f4")
    assert exact_B2[:, 0].tolist() == [targets[0, 0], targets[1, 1]]
    mass = np.log(np.exp(targets[0, 1:].astype(float)).sum())
    of_levels = np.log(np.exp(np.array(expected[0][1:])).sum())
    assert exact_B2[0, 1] == np.float32(mass - of_levels)


WRONG: dict[str, Any] = {
    "nan": float("nan"), "infinity": float("inf"), "negative": -30.0, "zero": 0.0, "tiny": 1e-9,
    "huge": 1e300, "a huge integer": 10**400, "an integer": 30, "true": True, "null": None,
    "text": "30.0", "a list": [30.0], "an object": {}, "finer beyond": 31.0,
}  # fmt: skip


MEMBERS = ("fine", "coarse", "knee", "absolute_error", "root_error")
RIGHT = {("fine", "finer beyond"), ("knee", "an integer")}  # other levels, of the same bound


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_numbers_are_refused(kind: str, member: str) -> None:
    for wrong, value in WRONG.items():
        described = {**make(kind).describe(), member: value}
        if kind == "residual" and (member, wrong) in RIGHT:
            assert encoder_from_description(described, 5).describe() == described
            continue
        with pytest.raises((ValueError, TypeError)):
            encoder_from_description(described, 5)


TABLES: dict[str, Any] = {
    "short": base64.b64encode(bytes(24)).decode(), "long": base64.b64encode(bytes(26)).decode(),
    "two rows": base64.b64encode(bytes(10)).decode(), "empty": "", "null": None, "a list": [0] * 25,
    "no base64": "!" * 36, "white space": base64.b64encode(bytes(25)).decode() + "\n",
    "unpadded": base64.b64encode(bytes(25)).decode().rstrip("="), "beyond ASCII": "\u00e9" * 36,
    "other bits": base64.b64encode(bytes(25)).decode()[:-3] + "B==",
    "megabytes": "A" * 4_000_000,
}  # fmt: skip


@pytest.mark.parametrize("wrong", TABLES)
def test_hostile_tables_are_refused(wrong: str) -> None:
    described = {**make().describe(), "table": TABLES[wrong]}
    with pytest.raises(ValueError, match=r"."):
        encoder_from_description(described, 5)


def test_other_members_and_names_are_refused() -> None:
    described = make().describe()
    for other in (
        {**described, "another": 1},
        {**described, "name": "coarse"},
        {**described, "name": "residual9"},
        {**described, "name": None},
        {key: described[key] for key in described if key != "table"},
        {key: described[key] for key in described if key != "knee"},
        {**ENCODERS["sqrt8"].describe(), "table": described["table"]},
    ):
        with pytest.raises(ValueError, match=r"."):
            encoder_from_description(other, 5)
    with pytest.raises(ValueError, match="has 25 bytes for 6 classes"):
        encoder_from_description(described, 6)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_that_are_not_fitted_need_no_labels(name: str) -> None:
    encoder: Encoder = ENCODERS[name]
    targets = np.array([[-1.0, -0.5]], dtype=np.float32)
    assert np.array_equal(encoder.encode(targets), encoder.encode(targets, np.array([1])))
    assert not encoder.unpacks
    assert not encoder.needs_labels
    assert encoder.summary() == encoder.describe()
