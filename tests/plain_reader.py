"""A reader of stores made from docs/format.md: zarr, numpy and the standard library, no kdcache.

It follows the page section by section and refuses what the page says a reader refuses, so that a
page which is wrong or incomplete fails a test. Written for being read: it is slow.

Shapes: V views, N samples, C classes, F features; images are C, H, W. Of people: J joints,
and H, W is a map.
"""

import base64
import hashlib
import json
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

Json = dict[str, Any]
SEAL = re.compile(rb'"seal": ?"([0-9a-f]{64})"')
RECORD_NAME = re.compile(r"([0-9]{6,18})\.([0-9]{6,18})\.([0-9a-f]{8})\.json")


class RefusedError(Exception):
    """The store is not as docs/format.md says."""


def demand(holds: bool, what: object) -> None:
    if not holds:
        raise RefusedError(str(what))


# Sealed documents


def read_sealed(path: Path) -> Json:
    """A document whose seal holds, without the seal. FileNotFoundError when there is none."""
    content = path.read_bytes()
    seals = list(SEAL.finditer(content))
    demand(len(seals) == 1, f"{path}: {len(seals)} seals")
    start, end = seals[0].span(1)
    blank = content[:start] + b"0" * 64 + content[end:]
    demand(hashlib.sha256(blank).hexdigest().encode() == seals[0][1], f"{path}: broken seal")
    try:
        document: Json = json.loads(content)
    except ValueError as error:
        raise RefusedError(f"{path}: {error}") from error
    holder = document if "seal" in document else document["attributes"]["kdcache"]
    del holder["seal"]
    return document


def canonical(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{text(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return text(value) if isinstance(value, str) else repr(value)


def text(value: str) -> str:
    short = {8: r"\b", 9: r"\t", 10: r"\n", 12: r"\f", 13: r"\r", 34: r"\"", 92: r"\\"}
    units = struct.iter_unpack(">H", value.encode("utf-16-be"))
    spelt = (short.get(u) or (chr(u) if 0x20 <= u <= 0x7E else f"\\u{u:04x}") for (u,) in units)
    return '"' + "".join(spelt) + '"'


def canonical_sha256(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()


# Chunks


def crc32c(payload: bytes) -> int:
    """RFC 3720, one bit after the other: polynomial 0x1EDC6F41, reflected."""
    crc = 0xFFFFFFFF
    for byte in payload:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def read_chunk(path: Path, payload_bytes: int) -> bytes:
    """A chunk file's payload, its size and CRC32C checked."""
    content = path.read_bytes()
    demand(len(content) == payload_bytes + 4, f"{path}: {len(content)} bytes")
    payload, trailer = content[:-4], content[-4:]
    demand(crc32c(payload) == int.from_bytes(trailer, "little"), f"{path}: CRC32C")
    return payload


# Zarr metadata


def array_metadata(
    shape: list[int],
    chunk_shape: list[int],
    data_type: str,
    fill: int | str,
    codecs: list[Json],
    names: list[str],
    attributes: Json,
) -> Json:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "dimension_names": names,
        "attributes": {"kdcache": attributes},
    }


LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
CRC32C = {"name": "crc32c"}
ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
ZSTD_1 = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
STATED = ("arithmetic", "relative_error", "absolute_error", "root_error")
ROOT_OF = "target = -(stored / 32)^2, computed in float32 (exact); 255: no target"
# name: data type, fill, codecs, arithmetic, relative, absolute and root error
ENCODERS: dict[str, tuple[str, int | str, list[Json], str, float, float, float]] = {
    "float32": ("float32", "NaN", [LITTLE, CRC32C], "target = stored", 0.0, 0.0, 0.0),
    "float16": (
        "float16", "NaN", [LITTLE, CRC32C], "target = float32(stored)", 2.0**-11, 2.0**-25, 0.0
    ),
    "sqrt8": (
        "uint8", 255, [{"name": "bytes"}, CRC32C], ROOT_OF, 0.0, 2.0**-12 * (1 + 2.0**-13),
        2.0**-5 * (1 + 2.0**-13),
    ),
    "sqrt8-zstd": (
        "uint8", 255, [{"name": "bytes"}, ZSTD, CRC32C], ROOT_OF, 0.0, 2.0**-12 * (1 + 2.0**-13),
        2.0**-5 * (1 + 2.0**-13),
    ),
}  # fmt: skip

RESIDUAL_OF = (
    "p = table[min(label, rows - 1)]; q = (stored[0..C-1] + p + stored[C]) mod 256; "
    "s = min(q, knee) * float32(1 / fine) + max(q - knee, 0) * float32(1 / coarse); "
    "target = -(s * s), in float32; stored[C] = 128: no target"
)
# name: bytes a stored row has beyond its C residuals, arithmetic
FITTED: dict[str, tuple[int, str]] = {
    "residual": (1, RESIDUAL_OF),
    "coarse": (
        9,
        f"{RESIDUAL_OF}; then target[c] = target[c] + shift for c other than the label, "
        "target[label] = exact; exact, shift = the two little-endian float32 in stored[C+1..C+8]",
    ),
}


# name: data type, fill, codecs, arithmetic, relative, absolute, root and peak error
MAP_ENCODERS: dict[str, tuple[str, int | str, list[Json], str, float, float, float, float]] = {
    "heatmap8": (
        "uint8", 255, [{"name": "bytes"}, ZSTD, CRC32C],
        "step = the little-endian float32 in stored[j, H, 0..3]; zero = stored[j, H, 4]; "
        "target[j, y, x] = float32(stored[j, y, x] - zero) * step, in float32; 255 in all bytes "
        "(a step that is not a number): no target",
        0.0, 0.01, 0.0, 0.016,
    ),
}  # fmt: skip


FITTED_STORED: tuple[str, int | str, list[Json]] = (
    "uint8",
    128,
    [{"name": "bytes"}, ZSTD_1, CRC32C],
)


class FittedEncoder:
    """`residual` or `coarse` as an array states it: checked, its bounds derived, rows decoded."""

    def __init__(self, stated: Json, classes: int) -> None:
        self.name, self.classes = stated["name"], classes
        self.extra, self.arithmetic = FITTED[self.name]
        self.fine, self.coarse, self.knee = stated["fine"], stated["coarse"], stated["knee"]
        demand(type(self.fine) is float and type(self.coarse) is float, "fine, coarse")
        demand(type(self.knee) is int and 0 <= self.knee <= 255, "knee")
        demand(2.0**-10 <= self.coarse <= self.fine <= 2.0**16, "fine, coarse")
        self.text = stated["table"]
        table = base64.b64decode(self.text, validate=True)
        demand(base64.b64encode(table).decode() == self.text, "spelling of the table")
        demand(len(table) in (classes, classes * classes), f"a table of {len(table)} bytes")
        self.table = np.frombuffer(table, dtype=np.uint8).reshape(-1, classes)

    def describe(self) -> Json:
        slack, step = 1 + 2.0**-11, 1 / self.coarse
        absolute, root = step * step / 4 * slack, step * slack
        if self.name == "coarse":
            furthest = self.knee / self.fine + (255 - self.knee) / self.coarse
            absolute = 2 * absolute + root * furthest
        return {
            "name": self.name,
            "arithmetic": self.arithmetic,
            "relative_error": 0.0,
            "absolute_error": absolute,
            "root_error": root,
            "fine": self.fine,
            "coarse": self.coarse,
            "knee": self.knee,
            "table": self.text,
        }

    def decode(self, stored: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Sample by sample, class by class."""
        fine, coarse = np.float32(1 / self.fine), np.float32(1 / self.coarse)
        targets = np.empty((len(stored), self.classes), dtype=np.float32)
        for n, (row, label) in enumerate(zip(stored.tolist(), labels.tolist(), strict=True)):
            mean = row[self.classes]
            demand(mean != 128, "a stored mean of 128 says that no target is here")
            predicted = self.table[min(label, len(self.table) - 1)].tolist()
            for c in range(self.classes):
                q = (row[c] + predicted[c] + mean) % 256
                s = np.float32(min(q, self.knee)) * fine + (
                    np.float32(max(q - self.knee, 0)) * coarse
                )
                targets[n, c] = -(s * s)
            if self.name == "coarse":
                exact, shift = struct.unpack("<2f", bytes(row[self.classes + 1 :]))
                targets[n] += np.float32(shift)
                targets[n, label] = exact
        return targets


def decode(stored: NDArray[Any]) -> NDArray[np.float32]:
    if stored.dtype != np.uint8:
        return stored.astype(np.float32)
    demand(bool((stored != 255).all()), "a stored 255 says that no target is here")
    root = stored.astype(np.float32) / np.float32(32)
    return -(root * root)


def decode_maps(stored: NDArray[Any]) -> NDArray[np.float32]:
    """`heatmap8`, map by map: (N, J, H + 1, W) bytes to (N, J, H, W)."""
    samples, joints, lines, width = stored.shape
    targets = np.empty((samples, joints, lines - 1, width), dtype=np.float32)
    for n in range(samples):
        for j in range(joints):
            (step,) = struct.unpack("<f", stored[n, j, -1, :4].tobytes())
            demand(step == step, "a step that is not a number says that no target is here")
            zero = int(stored[n, j, -1, 4])
            levels = stored[n, j, :-1].astype(np.int64) - zero
            targets[n, j] = levels.astype(np.float32) * np.float32(step)
    return targets


def keypoints_of(heatmap: NDArray[np.float32]) -> tuple[float, float, float]:
    """x and y in view pixels, and score, of one exact map (H, W)."""
    height, width = heatmap.shape
    y, x = divmod(int(heatmap.argmax()), width)
    score = float(heatmap[y, x])
    if score <= 0:
        return 0.0, 0.0, score
    right = down = 0.0
    if 1 < x < width - 1 and 1 < y < height - 1:
        right = 0.25 * float(np.sign(heatmap[y, x + 1] - heatmap[y, x - 1]))
        down = 0.25 * float(np.sign(heatmap[y + 1, x] - heatmap[y - 1, x]))
    return 4 * (x + right), 4 * (y + down), score


def bilinear(photo: NDArray[np.uint8], x: float, y: float) -> NDArray[np.int64]:
    """The three channels at (x, y), without their fraction of a level; 0 outside."""
    height, width, _ = photo.shape
    if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
        return np.zeros(3, dtype=np.int64)
    left, top = int(np.floor(x)), int(np.floor(y))
    value = np.zeros(3)
    for down in (0, 1):
        for right in (0, 1):
            share = (x - left if right else 1 - x + left) * (y - top if down else 1 - y + top)
            row, column = np.clip([top + down, left + right], 0, [height - 1, width - 1])
            value += share * photo[row, column]
    return value.astype(np.int64)


# The store


class PlainStore:
    """A store as `docs/format.md`, "What a reader checks", has it read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = read_manifest(root)
        self.dataset: Json = self.manifest["dataset"]
        self.num_samples: int = self.dataset["num_samples"]
        self.block: int = self.manifest["block"]
        self.num_blocks = -(-self.num_samples // self.block)
        self.index_N, self.labels_N = (self._list(name) for name in ("index", "labels"))
        classes = self.dataset["num_classes"]
        demand(bool(self.index_N[0] >= 0 and (np.diff(self.index_N) > 0).all()), "index")
        self.of_people = self.dataset.get("task") == "pose"
        self.primary = "heatmaps" if self.of_people else "logits"
        if not self.of_people:
            demand(bool(((self.labels_N >= 0) & (self.labels_N < classes)).all()), "labels")
        demand(read_sealed(root / "mentors" / "zarr.json")["node_type"] == "group", "mentors")
        folders = [f for f in sorted((root / "mentors").iterdir()) if f.is_dir()]
        found = [
            PlainMentor(self, folder, kind)
            for folder in folders
            for kind in kinds_of(folder, self.primary)
        ]
        self.mentors = {found_.name: found_ for found_ in found if found_.kind == self.primary}
        self.others = {(m.name, m.kind): m for m in found if m.kind != self.primary}

    def _list(self, name: str) -> NDArray[np.int64]:
        n = self.num_samples
        expected = array_metadata([n], [n], "int64", 0, [LITTLE, CRC32C], ["sample"], {})
        demand(read_sealed(self.root / name / "zarr.json") == expected, f"{name}: metadata")
        payload = read_chunk(self.root / name / "c" / "0", 8 * n)
        demand(hashlib.sha256(payload).hexdigest() == self.dataset[f"{name}_sha256"], name)
        return np.frombuffer(payload, dtype="<i8").astype(np.int64)

    def view_pixels(self, image_CHW: NDArray[np.uint8], index: int, view: int) -> NDArray[np.uint8]:
        """One replayed view of one image."""
        recipe = self.manifest["recipe"]
        demand(recipe["version"] == 1 and recipe["exact"], recipe)
        if recipe["name"] == "none":
            demand(view == 0, view)
            return image_CHW
        demand(recipe["name"] == "crop-flip", recipe)
        size, padding = recipe["size"], recipe["padding"]
        word = philox(self.manifest["view_seed"], purpose=0, major=index, minor=view)
        padded = np.pad(image_CHW, ((0, 0), (padding, padding), (padding, padding)))
        top, left = below(word[0], 2 * padding + 1), below(word[1], 2 * padding + 1)
        crop = padded[:, top : top + size, left : left + size]
        return crop[:, :, ::-1] if recipe["flip"] and word[2] >> 31 else crop

    def proves_people(
        self,
        joints_NJ3: NDArray[np.float64],
        box_N4: NDArray[np.float64],
        image_N: NDArray[np.int64],
        files: list[bytes],
    ) -> bool:
        """Whether these people, and the files of their images, are those of the store."""
        described = [
            hashlib.sha256(array.tobytes()).hexdigest()
            for array in (
                joints_NJ3.astype("<f8"),
                box_N4.astype("<f8"),
                image_N.astype("<i8"),
            )
        ]
        permuted = sorted(range(self.num_samples), key=lambda n: philox(0, 2, n, 0)[:2])
        sampled = [hashlib.sha256(files[n]).hexdigest() for n in sorted(permuted[:256])]
        found = canonical_sha256(described), canonical_sha256(sampled)
        return found == (self.dataset["people_sha256"], self.dataset["pixels_sha256"])

    def proves_person_views(
        self, box_N4: NDArray[np.float64], photos: list[NDArray[np.uint8]]
    ) -> bool:
        """Whether boxes and decoded photographs (H, W, 3), by position, give the proof's views.

        Of whole bodies without jitter: the recipe's half_body and jitter are 0.
        """
        recipe = self.manifest["recipe"]
        height, width = recipe["height"], recipe["width"]
        demand(recipe["version"] == 1 and recipe["exact"] is False, recipe)
        demand(recipe.get("half_body", 0) == recipe.get("jitter", 0) == 0, recipe)
        off = []
        for entry in self.manifest["replay_proof"]:
            position = self.index_N.tolist().index(entry["index"])
            affine = self._person_affine(box_N4[position].tolist(), entry["index"], entry["view"])
            here = [*affine.ravel(), *([1.0] * 3 if recipe["name"] == "pose-affine" else [])]
            apart = np.abs(np.array(here) - entry["parameters"])
            if len(here) != len(entry["parameters"]) or apart.max() > 1e-6:
                return False
            pixels = bytes.fromhex(entry["pixels"])
            for n in range(len(pixels) // 3):
                word = philox(0, 11, n, entry["view"])
                row, column = below(word[0], height), below(word[1], width)
                x, y = np.linalg.solve(affine[:, :2], [column, row] - affine[:, 2])
                stored = np.frombuffer(pixels[3 * n : 3 * n + 3], dtype=np.uint8).astype(int)
                off += np.abs(bilinear(photos[position], x, y) - stored).tolist()
        return bool(sum(level > 1 for level in off) <= 0.001 * len(off))

    def _person_affine(self, box: list[float], index: int, view: int) -> NDArray[np.float64]:
        """2 x 3, photograph to view."""
        recipe = self.manifest["recipe"]
        height, width = recipe["height"], recipe["width"]
        left, top, w, h = box
        center = np.array([left + w / 2, top + h / 2])
        crop, angle, mirrored = 1.25 * max(w, h * width / height), 0.0, False
        if recipe["name"] == "pose-affine":
            words = philox(self.manifest["view_seed"], purpose=0, major=index, minor=view)
            first, second = ((word + 0.5) / 2**32 for word in words[:2])
            radius, scale, turn = np.sqrt(-2 * np.log(first)), recipe["scale"], recipe["rotation"]
            crop *= np.clip(1 + scale * radius * np.cos(2 * np.pi * second), 1 - scale, 1 + scale)
            if words[2] < 0.6 * 2**32:
                angle = np.clip(turn * radius * np.sin(2 * np.pi * second), -2 * turn, 2 * turn)
            mirrored = words[3] < recipe["flip"] * 2**32
        t = np.deg2rad(angle)
        linear = width / crop * np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
        shift = np.array([width / 2, height / 2]) - linear @ center
        affine = np.concatenate([linear, shift[:, None]], axis=1)
        if mirrored:
            affine[0] = [0, 0, width] - affine[0]
        return affine

    def proves(self, images: dict[int, NDArray[np.uint8]]) -> bool:
        """Whether these images, by permanent integer, are what the mentors saw."""
        permuted = sorted(range(self.num_samples), key=lambda n: philox(0, 2, n, 0)[:2])
        sampled = [images[int(self.index_N[n])] for n in sorted(permuted[:256])]
        pixels = b"".join(image.tobytes() for image in sampled)
        same = hashlib.sha256(pixels).hexdigest() == self.dataset["pixels_sha256"]
        return same and all(
            hashlib.sha256(
                self.view_pixels(images[s["index"]], s["index"], s["view"]).tobytes()
            ).hexdigest()
            == s["sha256"]
            for s in self.manifest["replay_proof"]
        )


def read_manifest(root: Path) -> Json:
    document = read_sealed(root / "zarr.json")
    demand((document["zarr_format"], document["node_type"]) == (3, "group"), "no Zarr v3 group")
    manifest: Json = document["attributes"]["kdcache"]
    demand(manifest["format"] == 1, f"format {manifest['format']}")
    demand(
        set(manifest) == {"format", "fingerprint", "dataset", "recipe", "view_seed", "block",
                          "replay_proof", "written_by"},
        f"the manifest has the members {sorted(manifest)}",
    )  # fmt: skip
    named = {key: manifest[key] for key in ("dataset", "recipe", "view_seed")}
    demand(canonical_sha256(named) == manifest["fingerprint"], "fingerprint")
    return manifest


# kind: names of a row's dimensions, encoders
KINDS: dict[str, tuple[list[str], list[str]]] = {
    "logits": (["class"], [*ENCODERS, *FITTED]),
    "features": (["feature"], ["float16", "float32"]),
    "logsumexp": ([], ["float32"]),
    "heatmaps": (["joint", "y", "x"], ["heatmap8", "float16", "float32"]),
    "keypoints": (["joint", "coordinate"], ["float32"]),
}


def kinds_of(mentor: Path, primary: str) -> list[str]:
    """The primary kind, and what else has a `zarr.json`, a commit record or an index."""
    traces = ("zarr.json", "commits/*.json", "commits.json")
    there = {kind for kind in KINDS if any(any((mentor / kind).glob(trace)) for trace in traces)}
    return [kind for kind in KINDS if kind in {primary, *there}]


class PlainMentor:
    """One mentor's array of one kind: `records` by (view, block), `complete_views`."""

    def __init__(self, store: PlainStore, folder: Path, kind: str = "logits") -> None:
        self.store, self.folder, self.kind = store, folder / kind, kind
        self.manifest: Json = read_sealed(folder / "zarr.json")["attributes"]["kdcache"]
        demand(
            set(self.manifest) == {"fingerprint", "name", "architecture", "num_classes",
                                   "checkpoint_sha256", "preprocessing", "run_shape"},
            f"{folder} has the members {sorted(self.manifest)}",
        )  # fmt: skip
        self.name: str = self.manifest["name"]
        demand(self.name.replace(":", ".") == folder.name, f"{folder} is of {self.name}")
        demand(self.manifest["fingerprint"] == store.manifest["fingerprint"], "other views")
        self.fitted: FittedEncoder | None = None
        self.encoder, self.num_views, self.row = self._array()
        self.identity = canonical_sha256(
            {"mentor": self.manifest, "kind": kind, "encoder": self.encoder}
        )
        self.records = {(r["view"], r["block"]): r for r in self._records()}
        self.complete_views = [
            view
            for view in range(self.num_views)
            if all((view, block) in self.records for block in range(store.num_blocks))
        ]

    def _array(self) -> tuple[Json, int, list[int]]:
        document = read_sealed(self.folder / "zarr.json")
        encoder: Json = document["attributes"]["kdcache"]["encoder"]
        num_views: int = document["shape"][0]
        dimensions, encoders = KINDS[self.kind]
        demand(encoder["name"] in encoders, f"{self.folder}: {encoder['name']}")
        if encoder["name"] in FITTED:
            self.fitted = FittedEncoder(encoder, self.store.dataset["num_classes"])
            data_type, fill, codecs = FITTED_STORED
            stated = self.fitted.describe()
        elif encoder["name"] in MAP_ENCODERS:
            data_type, fill, codecs, *numbers = MAP_ENCODERS[encoder["name"]]
            members = (*STATED, "peak_error")
            stated = {"name": encoder["name"], **dict(zip(members, numbers, strict=True))}
        else:
            data_type, fill, codecs, *numbers = ENCODERS[encoder["name"]]
            stated = {"name": encoder["name"], **dict(zip(STATED, numbers, strict=True))}
        row = self._row(document["shape"][2:])
        stored = [row[0] + self.fitted.extra] if self.fitted is not None else row
        if encoder["name"] in MAP_ENCODERS:
            stored = [row[0], row[1] + 1, row[2]]
        expected = array_metadata(
            [num_views, self.store.num_samples, *stored],
            [1, self.store.block, *stored],
            data_type,
            fill,
            codecs,
            ["view", "sample", *dimensions],
            {"kind": self.kind, "encoder": stated},
        )
        demand(document == expected and num_views >= 1, f"{self.folder}: metadata")
        return encoder, num_views, row

    def _row(self, stated: list[int]) -> list[int]:
        """The shape of a target: what `stated` is, where only the array knows."""
        outputs = self.store.dataset["num_classes"]
        if self.kind == "logits":
            return [outputs]
        if self.kind == "heatmaps":
            sides = [self.store.manifest["recipe"][side] // 4 for side in ("height", "width")]
            demand(min(sides) >= 5 and max(sides) <= 1024, f"{self.folder}: maps of {sides}")
            return [outputs, *sides]
        if self.kind == "keypoints":
            return [outputs, 3]
        demand(self.kind != "features" or 1 <= stated[0] <= 65536, f"{self.folder}: {stated}")
        return stated

    def _records(self) -> list[Json]:
        commits = self.folder / "commits"
        listed = [path for path in sorted(commits.iterdir()) if RECORD_NAME.fullmatch(path.name)]
        keys = [path.name.rsplit(".", 2)[0] for path in listed]
        demand(len(set(keys)) == len(keys), f"{commits}: two records of one chunk")
        gathered: Json = {}
        with suppress(FileNotFoundError, RefusedError):
            gathered = read_sealed(self.folder / "commits.json")["records"]
        lost = {name.rsplit(".", 2)[0] for name in gathered} - set(keys)
        demand(not lost, f"{commits}: records are gone: {sorted(lost)}")
        records = [gathered.get(path.name) or read_sealed(path) for path in listed]
        for path, record in zip(listed, records, strict=True):
            self._check_record(path, record)
        return records

    def _check_record(self, path: Path, record: Json) -> None:
        view, block, store = record["view"], record["block"], self.store
        demand(
            set(record) == {"view", "block", "rows", "bytes", "crc32c", "sha256", "identity",
                            "correct", "error_sums"},
            f"{path} has the members {sorted(record)}",
        )  # fmt: skip
        demand(path.name == f"{view:06d}.{block:06d}.{record['crc32c']}.json", path)
        demand(record["identity"] == self.identity, f"{path} is of other targets")
        demand(block < store.num_blocks, path)
        demand(record["rows"] == min(store.block, store.num_samples - block * store.block), path)

    def read_payload(self, view: int, block: int) -> bytes:
        """A committed chunk as it lies in its file, every byte checked."""
        record = self.records[view, block]
        path = self.folder.joinpath("c", str(view), str(block), *["0"] * len(self.row))
        payload = read_chunk(path, record["bytes"])
        demand(f"{crc32c(payload):08x}" == record["crc32c"], "another chunk than committed")
        demand(hashlib.sha256(payload).hexdigest() == record["sha256"], "SHA-256")
        return payload

    def targets(self, view: int) -> NDArray[np.float32]:
        """float32 (N, *row) of one complete view, every chunk checked first.

        Zarr decodes; where nothing is compressed the rows are also taken from the file's bytes.
        """
        demand(view in self.complete_views, f"view {view} is not complete")
        payloads = [self.read_payload(view, block) for block in range(self.store.num_blocks)]
        stored = np.asarray(zarr.open_array(self.folder, mode="r")[view])
        if self.fitted is not None:
            return self.fitted.decode(stored, self.store.labels_N)
        if self.encoder["name"] == "sqrt8-zstd":
            return decode(stored)
        if self.encoder["name"] in MAP_ENCODERS:
            return decode_maps(stored)
        for block, payload in enumerate(payloads):
            shape = (self.store.block, *self.row)
            raw = np.frombuffer(payload, dtype=stored.dtype).reshape(shape)
            rows = self.records[view, block]["rows"]
            start = block * self.store.block
            demand(raw[:rows].tobytes() == stored[start : start + rows].tobytes(), "rows")
            padding = raw[rows:]
            empty = padding == 255 if padding.dtype == np.uint8 else np.isnan(padding)
            demand(bool(empty.all()), "padding")
        return decode(stored)


# Views


def philox(seed: int, purpose: int, major: int, minor: int) -> list[int]:
    """Philox4x32-10's four words, by Python integers."""
    low = 0xFFFFFFFF
    counter = [major & low, major >> 32, minor, purpose]
    key = [seed & low, seed >> 32]
    for _ in range(10):
        first, third = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            third >> 32 ^ counter[1] ^ key[0], third & low,
            first >> 32 ^ counter[3] ^ key[1], first & low,
        ]  # fmt: skip
        key = [key[0] + 0x9E3779B9 & low, key[1] + 0xBB67AE85 & low]
    return counter


def below(word: int, bound: int) -> int:
    return word * bound >> 32
