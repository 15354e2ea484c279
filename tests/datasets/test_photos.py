"""Photographs: every kind of file one meets, broken ones by name, a bounded memory of them."""

import hashlib
import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kdcache.datasets.coco_keypoints import read_coco_people
from kdcache.datasets.people import People
from kdcache.datasets.photos import PhotoReader, read_photo
from kdcache.errors import DatasetError
from tests.datasets.pose_files import (
    HEIGHT,
    WIDTH,
    coco_document,
    person,
    save_photo,
    write_coco,
)

BYTES = 3 * WIDTH * HEIGHT


def far(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(np.int64) - b).mean())


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_any_kind_is_rgb(tmp_path: Path, mode: str) -> None:
    given = save_photo(tmp_path / "a.jpg", mode, quality=95)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.shape == (HEIGHT, WIDTH, 3)
    assert photo.dtype == np.uint8
    assert far(photo, np.asarray(given.convert("RGB"))) < 4  # JPEG's own loss
    if mode == "L":
        assert np.array_equal(photo[..., 0], photo[..., 2])


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA"])
def test_a_png_of_any_kind_is_exact(tmp_path: Path, mode: str) -> None:
    given = save_photo(tmp_path / "a.png", mode)
    assert np.array_equal(read_photo(tmp_path / "a.png"), np.asarray(given.convert("RGB")))


def test_a_palette_with_transparency_warns_nobody(tmp_path: Path) -> None:
    given = save_photo(tmp_path / "a.png", "P", transparency=bytes(range(256)))
    assert np.array_equal(read_photo(tmp_path / "a.png"), np.asarray(given.convert("RGB")))


def test_an_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show it"
    save_photo(tmp_path / "turned.jpg", exif=exif)
    save_photo(tmp_path / "plain.jpg")
    assert np.array_equal(read_photo(tmp_path / "turned.jpg"), read_photo(tmp_path / "plain.jpg"))


def refusal(path: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        read_photo(path, "annotation 17")
    assert str(caught.value).startswith(f"{path}: annotation 17: the image cannot be read: ")
    return str(caught.value)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_truncated_jpeg_is_refused_by_name(tmp_path: Path, part: float) -> None:
    save_photo(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: int(part * len(whole))])
    assert "image cannot be read: it is" in refusal(tmp_path / "a.jpg")


def test_what_is_no_photograph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    assert "No such file" in refusal(path)
    path.write_bytes(b"")
    assert "neither a JPEG nor a PNG" in refusal(path)
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "neither a JPEG nor a PNG" in refusal(path)
    path.unlink()
    save_photo(path.with_suffix(".gif")).close()
    path.with_suffix(".gif").rename(path)
    assert "neither a JPEG nor a PNG" in refusal(path)
    assert "it is a folder" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert "it is a FIFO" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("side", [8_193, 10_000, 14_000, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert "pixels" in refusal(tmp_path / "a.png")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG"]))
    stream = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(stream, kind)
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        photo = read_photo(path)
    except DatasetError:  # and nothing else
        return
    assert photo.ndim == 3
    assert photo.dtype == np.uint8


@pytest.fixture
def six(tmp_path: Path) -> tuple[People, Path]:
    """Six people on three photographs, two each."""
    entries = [person(10 + i, 1 + i // 2) for i in range(6)]
    file, images = write_coco(tmp_path, coco_document(entries, images=3), images=3)
    return read_coco_people(file, images).people, images


def test_a_reader_gives_people_and_their_photographs(six: tuple[People, Path]) -> None:
    people, images = six
    read = PhotoReader(people, images)
    found = read(np.array([5, 0, 1]))
    assert found.people.annotation_N.tolist() == [15, 10, 11]
    assert len(found) == 3
    for photo, name in zip(found.photos, found.people.files, strict=True):
        assert np.array_equal(photo, read_photo(images / name))
    assert found.photos[1] is found.photos[2]
    assert read.kept_bytes == 2 * BYTES


def test_what_is_kept_is_not_read_again_and_stays_within_its_bound(
    six: tuple[People, Path],
) -> None:
    people, images = six
    read = PhotoReader(people, images, cache_bytes=2 * BYTES)
    photos = [read(np.array([i])).photos[0] for i in (0, 2)]
    read(np.array([0]))  # now the second photograph is the one used longest ago
    read(np.array([4]))
    assert read.kept_bytes == 2 * BYTES
    for name in people.files[0], people.files[2], people.files[4]:
        (images / name).unlink(missing_ok=True)
    assert read(np.array([1])).photos[0] is photos[0]
    assert len(read(np.array([5]))) == 1
    with pytest.raises(DatasetError, match="annotation 13: the image cannot be read: No such file"):
        read(np.array([3]))


def test_a_photograph_larger_than_the_bound_is_not_kept(six: tuple[People, Path]) -> None:
    people, images = six
    read = PhotoReader(people, images, cache_bytes=BYTES - 1)
    assert read(np.array([0])).photos[0].nbytes == BYTES
    assert read.kept_bytes == 0


def test_threads_read_the_same_within_the_bound(six: tuple[People, Path]) -> None:
    people, images = six
    read = PhotoReader(people, images, cache_bytes=2 * BYTES)
    expected = [read_photo(images / name) for name in people.files]
    wrong: list[object] = []

    def work(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, 6, 60).tolist():
            if not np.array_equal(read(np.array([index])).photos[0], expected[index]):
                wrong.append(index)
            if read.kept_bytes > 3 * BYTES:  # one may be counted before another is let go
                wrong.append(read.kept_bytes)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert read.kept_bytes == 2 * BYTES


def test_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    file, images = write_coco(tmp_path, coco_document([person(17)]))
    reading = read_coco_people(file, images)
    Image.new("RGB", (HEIGHT, WIDTH)).save(images / "000000000001.jpg")
    read = PhotoReader(reading.people, images, reading.size_N2)
    with pytest.raises(DatasetError, match=r"annotation 17: .* says 64 x 48 pixels, .* 48 x 64"):
        read(np.array([0]))


def test_digests_are_of_the_files(six: tuple[People, Path]) -> None:
    people, images = six
    read = PhotoReader(people, images)
    expected = [hashlib.sha256((images / name).read_bytes()).hexdigest() for name in people.files]
    assert read.file_sha256(np.array([4, 0])) == [expected[4], expected[0]]
    (images / people.files[0]).unlink()
    with pytest.raises(DatasetError, match="annotation 11: the image cannot be read"):
        read.file_sha256(np.array([1]))
