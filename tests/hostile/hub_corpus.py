"""Hostile hubs by name: each a good one (`good_hub.make_good_hub`) changed in one way, sealed."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tests.hostile.documents import JUNK, TEXTS
from tests.hostile.files import OTHERS, replaced
from tests.hostile.forging import Make, edit, put, read, resealed, write
from tests.hostile.hub_forging import (
    add_push,
    edit_gathered,
    fingerprint_of,
    gathered_of,
    push_of,
    put_text,
    rename_push,
)

HUB_CASES: dict[str, Make] = {}
THOROUGH_HUBS: set[str] = set()  # tried in part by the tests, as a whole by `trial`
NO_SHA = "f" * 64
ARRAY, RECORD = ("arrays", 0), ("arrays", 0, "records", 0)
ENCODER = (*ARRAY, "metadata", "attributes", "kdcache", "encoder")


def case(name: str) -> Callable[[Make], Make]:
    """A hostile hub of that name."""

    def add(make: Make) -> Make:
        assert name not in HUB_CASES, name
        HUB_CASES[name] = make
        return make

    return add


# Every kind of value in every place.
PLACES: dict[str, list[tuple[str | int, ...]]] = {
    "store": [
        ("hub",), ("pushes",), ("pushes", 0), ("manifest",), ("manifest", "format"),
        ("manifest", "fingerprint"), ("manifest", "dataset"), ("manifest", "dataset", "name"),
        ("manifest", "dataset", "split"), ("manifest", "dataset", "num_samples"),
        ("manifest", "dataset", "num_classes"), ("manifest", "dataset", "index_sha256"),
        ("manifest", "dataset", "labels_sha256"), ("manifest", "recipe"),
        ("manifest", "recipe", "name"), ("manifest", "view_seed"), ("manifest", "block"),
        ("manifest", "replay_proof"), ("manifest", "replay_proof", 0), ("manifest", "written_by"),
        ("manifest", "another"), ("arrays",), ARRAY, (*ARRAY, "identity"), (*ARRAY, "mentor"),
        (*ARRAY, "mentor", "name"), (*ARRAY, "mentor", "fingerprint"),
        (*ARRAY, "mentor", "architecture"), (*ARRAY, "mentor", "checkpoint_sha256"),
        (*ARRAY, "mentor", "num_classes"), (*ARRAY, "mentor", "preprocessing"),
        (*ARRAY, "mentor", "run_shape"), (*ARRAY, "mentor", "run_shape", "batch"),
        (*ARRAY, "mentor", "run_shape", "precision"), (*ARRAY, "kind"), (*ARRAY, "metadata"),
        (*ARRAY, "metadata", "shape"), (*ARRAY, "metadata", "shape", 0),
        (*ARRAY, "metadata", "shape", 1), (*ARRAY, "metadata", "codecs"),
        (*ARRAY, "metadata", "attributes"), ENCODER, (*ENCODER, "name"), (*ARRAY, "another"),
        (*ARRAY, "records"), RECORD, (*RECORD, "view"), (*RECORD, "block"), (*RECORD, "rows"),
        (*RECORD, "bytes"), (*RECORD, "crc32c"), (*RECORD, "sha256"), (*RECORD, "correct"),
        (*RECORD, "error_sums"), (*RECORD, "identity"), (*RECORD, "another"),
    ],
    "index": [
        ("hub",), ("stores",), ("stores", 0), ("stores", 0, "fingerprint"),
        ("stores", 0, "dataset"), ("stores", 0, "samples"), ("stores", 0, "view_seed"),
        ("stores", 0, "pushes"), ("stores", 0, "pushes", 0), ("stores", 0, "targets"),
        ("stores", 0, "targets", 0), ("stores", 0, "targets", 0, "identity"),
        ("stores", 0, "targets", 0, "mentor"), ("stores", 0, "targets", 0, "kind"),
        ("stores", 0, "targets", 0, "encoder"), ("stores", 0, "targets", 0, "views"),
        ("stores", 0, "targets", 0, "bytes"), ("stores", 0, "targets", 0, "accuracy"),
        ("stores", 0, "targets", 0, "checkpoint_sha256"), ("mentors",), ("mentors", 0),
        ("mentors", 0, "name"), ("mentors", 0, "file"), ("mentors", 0, "sha256"),
        ("mentors", 0, "bytes"), ("mentors", 0, "suffix"), ("another",),
    ],
    "entry": [
        ("hub",), ("name",), ("dataset",), ("sha256",), ("bytes",), ("suffix",), ("sidecar",),
    ],
}  # fmt: skip


def _set(what: str, at: tuple[str | int, ...], value: Any, root: Path, outside: Path) -> None:
    if what == "store":
        edit_gathered(root, lambda found: put(found, at, value), agree=at[-1] != "fingerprint")
    elif what == "index":
        edit(root / "index.json", lambda found: put(found, at, value))
    else:
        edit(next((root / "mentors").iterdir()), lambda found: put(found, at, value))
        (root / "index.json").unlink()


for _what, _places in PLACES.items():
    for _at, (_name, _value) in product(_places, JUNK.items()):
        _case = f"{_what}: {'.'.join(map(str, _at))} = {_name}"
        HUB_CASES[_case] = partial(_set, _what, _at, _value)
        THOROUGH_HUBS.add(_case)


# Whole documents.
_DOCUMENTS: dict[str, Callable[[Path], Path]] = {
    "hub.json": lambda root: root / "hub.json",
    "index.json": lambda root: root / "index.json",
    "store.json": gathered_of,
    "a push": push_of,
    "an entry": lambda root: next((root / "mentors").iterdir()),
}
_MORE: dict[str, Callable[[bytes], bytes]] = {
    **TEXTS,
    "65 MiB": lambda text: text + b" " * (65 * 2**20),
    "a web page": lambda text: b"<!DOCTYPE html><html><body>Please log in</body></html>",
    "cut short": lambda text: text[: len(text) // 2],
    "not sealed again": lambda text: text.replace(b'"hub": 1', b'"hub": 1, "x": 2'),
    "hub format 2": lambda text: text.replace(b'"hub": 1', b'"hub": 2'),
    "hub format 0": lambda text: text.replace(b'"hub": 1', b'"hub": 0'),
}


def _retext(name: str, change: Callable[[bytes], bytes], root: Path, outside: Path) -> None:
    path = _DOCUMENTS[name](root)
    changed = change(path.read_bytes())
    path.write_bytes(changed if change is _MORE["not sealed again"] else resealed(changed))
    if name == "a push":
        rename_push(path)


for _name, (_text, _change) in product(_DOCUMENTS, _MORE.items()):
    HUB_CASES[f"{_name}: {_text}"] = partial(_retext, _name, _change)
    if _text in TEXTS and _name not in ("store.json", "a push"):
        THOROUGH_HUBS.add(f"{_name}: {_text}")


# What is no file, or no folder, where one belongs, and what leads out of the hub.
def _chunk(root: Path) -> Path:
    return next(iter(sorted((root / "chunks").glob("*/000001.*"))))


_PLACES: dict[str, Callable[[Path], Path]] = {
    **_DOCUMENTS,
    "a chunk": _chunk,
    "its folder": lambda root: _chunk(root).parent,
    "a list": lambda root: next(iter(sorted((root / "lists").iterdir()))),
    "the store's folder": lambda root: gathered_of(root).parent,
    **{
        name: lambda root, name=name: root / name  # type: ignore[misc]
        for name in ("chunks", "lists", "pushes", "stores", "mentors", "README.md")
    },
}


def _replace(name: str, make: Callable[[Path, Path], object], root: Path, outside: Path) -> None:
    make(replaced(_PLACES[name](root)), outside)


for _name, (_other, _make_other) in product(_PLACES, OTHERS.items()):
    HUB_CASES[f"{_name} is: {_other}"] = partial(_replace, _name, _make_other)


def _elsewhere(name: str, root: Path, outside: Path) -> None:
    """The folder or file itself moved out, and a link put there: everything in it is right."""
    path, moved = _PLACES[name](root), outside / "folder" / "moved"
    shutil.rmtree(moved, ignore_errors=True)
    moved.unlink(missing_ok=True) if moved.is_file() else None
    path.rename(moved)
    path.symlink_to(moved)


for _name in _PLACES:
    if _name != "README.md":
        HUB_CASES[f"{_name} lies elsewhere"] = partial(_elsewhere, _name)


# Documents that are whole, and lie.
def _gathered_case(name: str, change: Callable[[Any], object], *, agree: bool = True) -> None:
    HUB_CASES[name] = lambda root, outside: edit_gathered(root, change, agree=agree)


def _pushed_case(name: str, change: Callable[[Any], object], *, agree: bool = False) -> None:
    HUB_CASES[f"a stranger's push: {name}"] = lambda root, outside: add_push(
        root, change, agree=agree
    )


def _array(document: Any) -> Any:
    return document["arrays"][0]


def _unknown(document: Any) -> Any:
    """An array by an encoder that nobody knows: its metadata may say anything."""
    array = _array(document)
    array["metadata"] = {"shape": [2], "attributes": {"kdcache": {"encoder": {"name": "new"}}}}
    return array


def _many_arrays(document: Any, count: int, *, names: bool) -> None:
    array = _array(document)
    array["records"] = array["records"][:1]
    array["metadata"]["shape"][0] = 1
    document["arrays"] = [
        {**array, "mentor": {**array["mentor"], "name": f"m{number}" if names else "m",
                             "architecture": f"a{number}"}}
        for number in range(count)
    ]  # fmt: skip


_BIG = 2**39
_LIES: dict[str, Callable[[Any], object]] = {
    "another's identity": lambda d: _array(d).update(identity=NO_SHA),
    "the identity, another mentor": lambda d: _array(d)["mentor"].update(architecture="other"),
    "the identity, other chunks": lambda d: _array(d)["metadata"]["chunk_grid"].update(x=1),
    "the identity, views without end": lambda d: _array(d)["metadata"]["shape"].__setitem__(
        0, _BIG
    ),
    "an array twice": lambda d: d["arrays"].append(_array(d)),
    "a record twice": lambda d: _array(d)["records"].append(_array(d)["records"][0]),
    "records of a far view": lambda d: _array(d)["records"][-1].update(view=2**32 - 1),
    "records of a far block": lambda d: _array(d)["records"][-1].update(block=10**9),
    "records of huge chunks": lambda d: [r.update(bytes=2**61) for r in _array(d)["records"]],
    "records of other rows": lambda d: [r.update(rows=21) for r in _array(d)["records"]],
    "no records": lambda d: _array(d)["records"].clear(),
    "a manifest of other blocks": lambda d: (d["manifest"].update(block=1), d["arrays"].clear()),
    "a manifest of other versions": lambda d: d["manifest"].update(written_by={"kdcache": "0"}),
    "no arrays": lambda d: d["arrays"].clear(),
    "no manifest": lambda d: d.pop("manifest"),
    "a manifest that is a list": lambda d: d.update(manifest=[1]),
}
for _name, _lie in _LIES.items():
    _gathered_case(f"store: {_name}", _lie, agree=False)
    _pushed_case(_name, _lie)

_NAMES = (
    "..", ".", "../../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "", "zarr.json", "x" * 201, "__x",
    ".hidden", "\x1b[2J", "\u202e", "--help", "$(touch ran)", "[x](http://evil)", "<script>", "a:b",
    "mentors", "C:evil", "con", "os:abort", "r8`touch ran`",
)  # fmt: skip
_KINDS = ("..", "a/b", "", "commits", "c", "features", "x" * 41, "new", "\u0130", 7)


def _named(name: object, document: Any) -> None:
    _array(document)["mentor"]["name"] = name


def _of_kind(kind: object, document: Any) -> None:
    _array(document)["kind"] = kind


_TRUE_LIES: dict[str, Callable[[Any], object]] = {
    **{f"mentor {name!a:.30}": partial(_named, name) for name in _NAMES},
    **{f"kind {kind!a:.30}": partial(_of_kind, kind) for kind in _KINDS},
    "an encoder for the terminal": lambda d: _unknown(d)["metadata"]["attributes"]["kdcache"][
        "encoder"
    ].update(name="\x1b[2J"),
    "an encoder of a MB": lambda d: _unknown(d)["metadata"]["attributes"]["kdcache"][
        "encoder"
    ].update(name="x" * 10**6),
    "an encoder nobody knows": _unknown,
    "a seal within": lambda d: _unknown(d)["metadata"].update(seal="0" * 64),
    "lists and objects": lambda d: _unknown(d)["metadata"].update(x=[[]] * 100_000),
    "a million numbers": lambda d: _unknown(d)["metadata"].update(x=[1] * 10**6),
    "a batch below zero": lambda d: _array(d)["mentor"]["run_shape"].update(batch=-(2**64)),
    "a precision of 10,000 texts": lambda d: _array(d)["mentor"]["run_shape"].update(
        precision={str(n): "a" for n in range(900)}
    ),
    "200 arrays of one name": lambda d: _many_arrays(d, 200, names=False),
    "200 mentors": lambda d: _many_arrays(d, 200, names=True),
    "4,000 mentors": lambda d: _many_arrays(d, 4000, names=True),
    "the name of a dataset as markup": lambda d: d["manifest"]["dataset"].update(
        name="x](http://evil) <b> `touch ran` | --- |\u2028"
    ),
    "lists named ..": lambda d: d["manifest"]["dataset"].update(index_sha256="../../outside/a"),
    "lists named /": lambda d: d["manifest"]["dataset"].update(labels_sha256="/etc/passwd"),
    "lists with long names": lambda d: d["manifest"]["dataset"].update(index_sha256="x" * 450),
    "samples without end": lambda d: (
        d["manifest"]["dataset"].update(num_samples=2**39), d["manifest"].update(block=2**39)
    ),
    "a replay proof of zeros": lambda d: d["manifest"]["replay_proof"][0].update(sha256="0" * 64),
}  # fmt: skip
for _name, _lie in _TRUE_LIES.items():
    _gathered_case(f"store, agreed: {_name}", _lie)
    _pushed_case(f"agreed: {_name}", _lie, agree=True)


@case("store.json of another store")
def _other_store(root: Path, outside: Path) -> None:
    here = gathered_of(root)
    (other,) = (path for path in root.glob("stores/*/store.json") if path != here)
    content, theirs = here.read_bytes(), other.read_bytes()
    here.write_bytes(theirs)
    other.write_bytes(content)


@case("a seal in disguise")
def _disguise(root: Path, outside: Path) -> None:
    path = gathered_of(root)
    text = path.read_text().replace(
        '"data_type"', '"\\u0073eal": "' + "1" * 64 + '", "data_type"', 1
    )
    put_text(path, text)


@case("a stranger's push: a seal in disguise")
def _pushed_disguise(root: Path, outside: Path) -> None:
    text = push_of(root).read_text()
    path = root / "pushes" / f"{fingerprint_of(root)}.{'0' * 64}.json"
    put_text(path, text.replace('"batch"', '"\\u0073eal": "' + "1" * 64 + '", "batch"', 1))
    rename_push(path)


@case("a stranger's push: 66 MiB of nothing")
def _large_push(root: Path, outside: Path) -> None:
    path = root / "pushes" / f"{fingerprint_of(root)}.{'0' * 64}.json"
    path.write_bytes(b" " * (66 * 2**20))
    rename_push(path)


@case("500 pushes of nothing")
def _many_pushes(root: Path, outside: Path) -> None:
    for number in range(500):
        (root / "pushes" / f"{fingerprint_of(root)}.{number:064x}.json").write_bytes(b"{}")


@case("500 pushes of stores that are none")
def _many_stores(root: Path, outside: Path) -> None:
    content = push_of(root).read_bytes()
    for number in range(500):
        (root / "pushes" / f"{number:064x}.{number:064x}.json").write_bytes(content)


@case("500 entries of mentors that are none")
def _many_entries(root: Path, outside: Path) -> None:
    for number in range(500):
        (root / "mentors" / f"digits.m{number}.{'0' * 16}.json").write_bytes(b"{}")


@case("names that are none")
def _names(root: Path, outside: Path) -> None:
    for folder in ("pushes", "mentors", "stores", "chunks", "lists"):
        for name in ("\x1b[2J.json", "\u202e.json", "a b.json", "..json", "x" * 250, "\udcff.json"):
            (root / folder / name).write_bytes(b"{}")


@case("chunks of other bytes")
def _other_bytes(root: Path, outside: Path) -> None:
    for path in root.glob("chunks/*/*"):
        content = path.read_bytes()
        path.write_bytes(bytes(255 - byte for byte in content[:8]) + content[8:])


@case("chunks of another size")
def _other_sizes(root: Path, outside: Path) -> None:
    for number, path in enumerate(sorted(root.glob("chunks/*/*"))):
        os.truncate(path, (0, 2**40, 10)[number % 3])


@case("chunks where the victim's will be, of other bytes")
def _waiting(root: Path, outside: Path) -> None:
    from kdcache.store import open_store
    from kdcache.store.hub_layout import chunk_name

    for stored in open_store(root.parent / "good").sound_targets:
        for record in stored.commits.values():
            path = root / chunk_name(record)
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                path.write_bytes(b"\0" * (record.bytes + 4))


@case("lists of others")
def _other_lists(root: Path, outside: Path) -> None:
    for path in (root / "lists").iterdir():
        path.write_bytes(b"\0" * path.stat().st_size)


@case("lists without end")
def _endless_lists(root: Path, outside: Path) -> None:
    for path in (root / "lists").iterdir():
        os.truncate(path, 2**40)


@case("an index of other stores")
def _other_index(root: Path, outside: Path) -> None:
    def lie(document: Any) -> None:
        for number, store in enumerate(document["stores"]):
            store.update(fingerprint=f"{number:064x}", dataset="digits; rm -rf ~")

    edit(root / "index.json", lie)


@case("an index of one store twice")
def _twice(root: Path, outside: Path) -> None:
    edit(root / "index.json", lambda document: document["stores"].append(document["stores"][0]))


@case("an index of 20,000 targets")
def _long_index(root: Path, outside: Path) -> None:
    def lie(document: Any) -> None:
        document["stores"][0]["targets"] *= 20_000

    edit(root / "index.json", lie)


@case("an index that knows every push")
def _knowing(root: Path, outside: Path) -> None:
    (root / "pushes" / f"{fingerprint_of(root)}.{'0' * 64}.json").write_bytes(b"{}")
    edit(root / "index.json", lambda d: [s["pushes"].append("0" * 64) for s in d["stores"]])
    edit(gathered_of(root), lambda d: d["pushes"].append("0" * 64))


@case("a zstd chunk that unpacks to more")
def _bomb(root: Path, outside: Path) -> None:
    """Right checksums all over: a chunk of another size inside."""
    import hashlib

    from numcodecs import zstd

    from kdcache.store.chunks import crc32c

    bomb = bytes(zstd.compress(b"\0" * 2**22, 19))

    def lie(document: Any) -> None:
        for record in _array(document)["records"]:
            record.update(bytes=len(bomb), sha256=hashlib.sha256(bomb).hexdigest(),
                          crc32c=f"{crc32c(bomb):08x}")  # fmt: skip

    edit_gathered(root, lie)
    array = _array(read(gathered_of(root)))
    for record in array["records"]:
        name = f"{record['view']:06d}.{record['block']:06d}.{record['sha256']}"
        path = root / "chunks" / array["identity"] / name
        path.write_bytes(bomb + crc32c(bomb).to_bytes(4, "little"))


@case("an empty hub")
def _empty(root: Path, outside: Path) -> None:
    for path in root.iterdir():
        if path.name != "hub.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@case("hub.json alone, and what is no hub's")
def _foreign(root: Path, outside: Path) -> None:
    _empty(root, outside)
    (root / "hub.json").write_text("{}")
    (root / "thesis.txt").write_text("mine")


@case("a store's folder that says that it is a hub")
def _both(root: Path, outside: Path) -> None:
    shutil.copytree(root.parent / "good", root, dirs_exist_ok=True)


@case("a gathered store of 500 records")
def _many_records(root: Path, outside: Path) -> None:
    path = gathered_of(root)
    document = read(path)
    array = _array(document)
    (record,) = array["records"][:1]
    array["records"] = [{**record, "view": number} for number in range(500)]
    array["metadata"]["shape"][0] = 500
    document["seal"] = "0" * 64
    path.write_bytes(resealed(json.dumps(document).encode()))


@case("a stranger's gathered store that says less")
def _less(root: Path, outside: Path) -> None:
    path = gathered_of(root)
    document = read(path)
    _array(document)["records"] = _array(document)["records"][:1]
    _array(document)["metadata"]["shape"][0] = 1
    write(path, document)


QUICK_HUBS = [name for name in HUB_CASES if name not in THOROUGH_HUBS]
_TELLING = ("store, agreed", "a stranger's push", "names", "chunks", "an index", "a seal", "a zstd")
_CHOSEN = {name for name in QUICK_HUBS if name.startswith(_TELLING)}
FAST_HUBS = [name for n, name in enumerate(QUICK_HUBS) if name in _CHOSEN or n % 12 == 0]
