"""Files of others: whole and plain, or one reason; never a wait, never much memory."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.untrusted import MOST_NESTED, open_file, parse_json, read_bytes, read_json

MIB = 2**20


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_bytes_of_a_regular_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"\x00text\r\n\x1a")
    assert read_bytes(path, most_bytes=8) == b"\x00text\r\n\x1a"
    assert read_bytes(str(path), most_bytes=MIB, follow_links=False) == path.read_bytes()
    assert read_bytes(write(tmp_path / "b", b""), most_bytes=0) == b""
    with open_file(path) as file:
        assert file.read(2) == b"\x00t"


def test_one_byte_too_many(tmp_path: Path) -> None:
    path = write(tmp_path / "a", bytes(1235))
    with pytest.raises(ValueError, match=r"has 1,235 bytes or more, at most 1,234 are read"):
        read_bytes(path, most_bytes=1234)
    assert len(read_bytes(path, most_bytes=1235)) == 1235


def test_a_sparse_file_is_refused_by_its_size(tmp_path: Path) -> None:
    os.truncate(write(tmp_path / "a", b""), 2**40)
    with pytest.raises(ValueError, match="1,099,511,627,776 bytes"):
        read_bytes(tmp_path / "a", most_bytes=MIB)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_files_that_say_0_bytes_and_hold_more() -> None:
    path = Path("/proc/self/maps")
    assert path.stat().st_size == 0
    assert b"python" in read_bytes(path, most_bytes=64 * MIB)
    with pytest.raises(ValueError, match="at most 100 are read"):
        read_bytes(path, most_bytes=100)


def test_a_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a", bytes(100))
    before = os.fstat

    def then_shrinks(descriptor: int) -> os.stat_result:
        found = before(descriptor)
        os.truncate(path, 10)
        return found

    monkeypatch.setattr(os, "fstat", then_shrinks)
    assert read_bytes(path, most_bytes=MIB) == bytes(10)


def link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def a_socket(path: Path) -> None:
    where = os.getcwd()
    os.chdir(path.parent)  # a socket's path has at most 100 or so characters
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(where)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (lambda p: p.mkdir(), "it is a folder"),
    "fifo": (os.mkfifo, "it is a FIFO"),
    "device": (link_to("/dev/zero"), "it is a device"),
    "terminal": (link_to("/dev/tty"), "it is (a device|a socket or a device)"),
    "socket": (a_socket, "it is a socket"),
    "circle": (link_to("a"), "it is behind links in a circle"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_regular_file(tmp_path: Path, kind: str) -> None:
    make, reason = NO_FILES[kind]
    make(tmp_path / "a")
    started = time.monotonic()
    for read in (read_bytes, read_json):
        with pytest.raises(ValueError, match=reason):
            read(tmp_path / "a", most_bytes=MIB)
    with pytest.raises(ValueError, match=reason):
        open_file(tmp_path / "a")
    assert time.monotonic() - started < 1  # a FIFO without a writer would wait for ever


def test_links_are_followed_or_refused_as_asked(tmp_path: Path) -> None:
    write(tmp_path / "a", b"[1]")
    (tmp_path / "link").symlink_to("a")
    assert read_json(tmp_path / "link", most_bytes=MIB) == [1]
    for read in (read_bytes, read_json):
        with pytest.raises(ValueError, match=r"^it is a link$"):
            read(tmp_path / "link", most_bytes=MIB, follow_links=False)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ValueError, match="it is behind links in a circle"):
        read_bytes(tmp_path / "circle" / "a", most_bytes=MIB, follow_links=False)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a", most_bytes=MIB)


# JSON

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20) + 1, 10**20 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=plain, ascii_only=st.booleans())
def test_every_plain_value_comes_back(
    tmp_path_factory: pytest.TempPathFactory, value: Any, ascii_only: bool
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    if not ascii_only:
        text = text.encode(errors="replace").decode()
    path = write(tmp_path_factory.getbasetemp() / "a.json", text.encode())
    assert read_json(path, most_bytes=MIB) == json.loads(text)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert read_json(write(tmp_path / "a", b'\xef\xbb\xbf{"a": 1}'), most_bytes=99) == {"a": 1}


DEEP = {
    "lists": b"[" * 101 + b"]" * 101,
    "objects": b'{"a":' * 101 + b"1" + b"}" * 101,
    "very deep": b"[" * 300_000 + b"]" * 300_000,
    "deep and open": b"[" * 900_000,
    "deep objects": b'{"":' * 200_000,
}
REFUSED: dict[str, tuple[bytes, str]] = {
    **{kind: (text, "nested more than 100 deep") for kind, text in DEEP.items()},
    "latin-1": (b'{"a": "\xe9"}', r"not UTF-8 text \(byte 7\)"),
    "utf-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8 text"),
    "empty": (b"", "not JSON: Expecting value"),
    "cut": (b'{"a": [1, 2', "not JSON: Expecting ',' delimiter: line 1"),
    "toml": (b"a = 1", "not JSON"),
    "two": (b"{} {}", "not JSON: Extra data"),
    "control character": (b'"\n"', "not JSON: Invalid control character"),
    "NaN": (b'{"a": NaN}', "it has NaN, which is not JSON"),
    "infinity": (b"[-Infinity]", "it has -Infinity, which is not JSON"),
    "overflow": (b"[-1e999]", "a number that is not finite: -1e999"),
    "digits": (b"[" + b"1" * 21 + b"]", "an integer of more than 20 digits"),
    "negative digits": (b"-" + b"1" * 21, "an integer of more than 20 digits"),
    "a million digits": (b"9" * 1_000_000, "an integer of more than 20 digits"),
    "twice": (b'{"a": {"b": 1, "c": 2, "b": 1}}', "the key 'b' twice in one object"),
    "half a pair": (b'{"a": "\\ud800"}', "half a surrogate pair"),
    "half a pair as key": (b'{"\\uDC00": 1}', "half a surrogate pair"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_json(tmp_path: Path, kind: str) -> None:
    text, reason = REFUSED[kind]
    with pytest.raises(ValueError, match=reason) as caught:
        read_json(write(tmp_path / "a.json", text), most_bytes=MIB)
    assert len(str(caught.value)) < 150  # the reason, not the file


def test_the_edges_are_read(tmp_path: Path) -> None:
    edge = b"[" * MOST_NESTED + b"1" + b"]" * MOST_NESTED
    pair = b'"\\ud83d\\ude00"'
    for text in (edge, pair, b"[" + b"[]," * 5000 + b"1]", b"-" + b"9" * 20, b"-0.0"):
        value = read_json(write(tmp_path / "a.json", text), most_bytes=MIB)
        assert value == json.loads(text)
    assert math.copysign(1, value) == -1


def test_any_number_is_taken_when_asked_for() -> None:
    found = parse_json(b'{"a": [NaN, -Infinity, 1e999, 1.5, 3]}', any_number=True)["a"]
    assert math.isnan(found[0])
    assert found[1:] == [-math.inf, math.inf, 1.5, 3]
    assert parse_json(b"9" * 30, any_number=True) == int("9" * 30)
    for text in (b"9" * 5_000, b'{"a": 1, "a": 2}', b"[" * 200 + b"]" * 200):
        with pytest.raises(ValueError):
            parse_json(text, any_number=True)


def test_named_keys_are_let_go_everywhere() -> None:
    text = b'{"a": 1, "b": {"a": [2], "c": [{"a": {"a": 3}}]}}'
    assert parse_json(text, without={"a"}) == {"b": {"c": [{}]}}
    with pytest.raises(ValueError, match="the key 'a' twice"):
        parse_json(b'{"a": 1, "a": 2}', without={"a"})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("unit", ["{}", "[]", '{"":0}', "[[]]", '{"a":{}}', "1", '"aé"', "[1.5]"])
def test_memory_stays_within_64_times_the_file(tmp_path: Path, unit: str) -> None:
    units = MIB // (len(unit.encode()) + 1)
    path = write(tmp_path / "a.json", f"[{','.join([unit] * (units - 1))}]".encode())
    code = (  # not getrusage: its peak begins with the parent's
        "import re, sys; from kdcache.untrusted import read_json\n"
        "status = lambda: open('/proc/self/status').read()\n"
        "peak = lambda: int(re.search('VmHWM:\\\\s*(\\\\d+)', status())[1])\n"
        "start = peak(); read_json(sys.argv[1], most_bytes=2**20)\n"
        "print((peak() - start) * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert 2 * MIB < int(done.stdout) < 64 * MIB


def test_many_small_files_are_quick(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", b'{"a": [1, 2, 3], "b": {"c": 0.5, "d": "text"}}')
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(200):
            read_json(path, most_bytes=MIB)
        best = min(best, (time.perf_counter() - started) / 200)
    assert best < 200e-6  # some 8 us on an idle machine
