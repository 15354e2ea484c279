"""A store's card: a README.md that says what it is, from what, by what command, and how to use it.

Its head is YAML as Hugging Face has it for dataset repositories. Whatever comes out of the store is
a stranger's text: names are cut, and escaped so that they are text wherever Markdown is shown.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcache import durable, untrusted
from kdcache.encode import PRIMARY
from kdcache.encode.logits import TEMPERATURES
from kdcache.errors import UsageError, readable
from kdcache.inspection import inspect_store
from kdcache.store import (
    CARD,
    TargetStore,
    explained,
    healing_command,
    local_path,
    open_store,
    recipe_words,
    require_inside,
    training_command,
)

MARKER = "<!-- written by `kdcache card`, which may write it anew -->"
PLACE = "STORE"  # what commands call the folder: the author's own path is nobody's business
MOST_ROWS = 100  # mentors in the table
MOST_CARD = 2**20  # bytes of a README.md that is looked at
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_LICENCE_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,40}")


def store_card(store: TargetStore, *, licence: str | None = None) -> str:
    """The card of a store, Markdown. From its documents alone: no chunk is read.

    `licence`: under which its owner hands it on: a name as Hugging Face has it (`cc-by-4.0`), or
    any other text. Raises UsageError for one of more than 200 characters or of several lines.
    """
    found = inspect_store(store)
    parts = [
        _front_matter(found, licence),
        MARKER,
        _title(found),
        _contents(found),
        _mentors(store, found),
        _making(store, found),
        _using(store),
        _licence(found, licence),
        _versions(found["written_by"]),
    ]
    return "\n\n".join(parts) + "\n"


def write_card(
    store: TargetStore | str | os.PathLike[str], *, licence: str | None = None, force: bool = False
) -> Path:
    """Writes a local store's card, README.md in its folder, and returns its path.

    Raises UsageError where somebody else wrote a README.md, unless `force`; StoreError for no
    store, one at a URL, or a folder that cannot be written.
    """
    if not isinstance(store, TargetStore):
        store = open_store(local_path(store))
    root = local_path(store.address)
    path = root / CARD
    require_inside(root, path)
    if not force and os.path.lexists(path) and not _is_ours(path):
        raise UsageError(
            f"{path} was not written by kdcache and was left as it is. Move it away, or replace it "
            "with --force"
        )
    content = store_card(store, licence=licence).encode()
    with explained(root):
        durable.write_file(path, content, within=root)
    return path


def licence_of(store: TargetStore) -> str | None:
    """The licence that a local store's card states; None where there is none of ours."""
    return stated_licence(_content(store.root / CARD)) if store.remote is None else None


def stated_licence(card: bytes) -> str | None:
    """The licence in the head of a card that kdcache wrote; None for another card, or without."""
    if MARKER.encode() not in card:
        return None
    head = card.partition(MARKER.encode())[0].decode(errors="replace")
    stated = dict(re.findall(r'^(license|license_name): ("[^\n]*")$', head, re.MULTILINE))
    try:
        found = [json.loads(stated[key]) for key in ("license_name", "license") if key in stated]
        _licence_fields(found[0])
    except (IndexError, ValueError, UsageError):
        return None
    return None if found[0] == "unknown" else str(found[0])


def _is_ours(path: Path) -> bool:
    return MARKER.encode() in _content(path)


def _content(path: Path) -> bytes:
    try:
        return untrusted.read_bytes(path, most_bytes=MOST_CARD, follow_links=False)
    except (OSError, ValueError):
        return b""


def _front_matter(found: dict[str, Any], licence: str | None) -> str:
    """The YAML head; its strings are JSON's, which YAML reads alike."""
    samples, of_people = found["dataset"]["num_samples"], "joints" in found["dataset"]
    size = next((name for most, name in _SIZES if samples < most), "n>1M")
    head: dict[str, Any] = {
        "pretty_name": f"Mentors' targets for {_ascii(found['dataset']['name'])}",
        **_licence_fields(licence),
        "task_categories": ["keypoint-detection" if of_people else "image-classification"],
        "tags": ["kdcache", "knowledge-distillation", "heatmaps" if of_people else "logits"],
        "size_categories": [size],
        "viewer": False,
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    return "\n".join(["---", *lines, "---"])


def _licence_fields(licence: str | None) -> dict[str, str]:
    if licence is None:
        return {"license": "unknown"}
    if not licence.strip() or len(licence) > 200 or not licence.isprintable():
        raise UsageError(f"--licence is one line of at most 200 characters, got {licence[:80]!r}")
    if _LICENCE_NAME.fullmatch(licence):
        return {"license": licence}
    return {"license": "other", "license_name": licence}


def _title(found: dict[str, Any]) -> str:
    dataset = found["dataset"]
    return (
        f"# What mentors say about {_text(dataset['name'])} ({_text(dataset['split'])})\n\n"
        "A kdcache store: the outputs of trained networks "
        "(*mentors*) for replayable seeded augmentations (*views*) of every sample, to train "
        "students from without running a mentor. It holds no images."
    )


def _contents(found: dict[str, Any]) -> str:
    dataset, recipe = found["dataset"], found["recipe"]
    samples = f"{dataset['num_samples']:,} of {dataset['num_classes']:,} classes"
    if "joints" in dataset:
        samples = f"{dataset['num_samples']:,} people of {dataset['num_classes']:,} joints each"
    if "image_shape" in dataset:
        samples += f", images {' x '.join(_text(size) for size in dataset['image_shape'])}"
    parameters = {k: v for k, v in recipe.items() if k not in ("name", "version", "exact")}
    rows = {
        "dataset": f"{_text(dataset['name'])}, split {_text(dataset['split'])}",
        "samples": samples,
        "views": f"{found['views']:,}"
        + ("" if found["complete"] else ", not all of them complete yet"),
        "recipe": f"{_text(recipe['name'])} {_text(recipe['version'])}"
        + "".join(f", {_text(k)} {_text(v)}" for k, v in list(parameters.items())[:20]),
        "view seed": str(found["view_seed"]),
        "bytes": f"{found['bytes']:,}",
        "fingerprint of the views": f"`{found['fingerprint']}`",
        "store format": str(found["format"]),
    }
    return "## What it is\n\n" + _table(("", ""), list(rows.items()))


def _mentors(store: TargetStore, found: dict[str, Any]) -> str:
    mentors, of_people = found["mentors"], "joints" in found["dataset"]
    cost = "mean shift of keypoints" if of_people else "mean KL"
    titles = (
        "mentor",
        "architecture",
        "checkpoint SHA-256",
        # Of people it takes the labels, which a store does not hold.
        *([] if of_people else [f"{found['metric']} on its cached views"]),
        "complete views",
        f"encoder ({cost})",
        "targets",
        "bytes",
    )
    rows = []
    for mentor in mentors[:MOST_ROWS]:
        accuracy = "-" if mentor["accuracy"] is None else f"{mentor['accuracy']:.2f}%"
        kinds = [
            name if name in PRIMARY else f"{name} ({has['encoder']['name']})"
            for name, has in mentor["kinds"].items()
        ]
        rows.append(
            (
                _text(mentor["name"]),
                _text(mentor["architecture"]),
                f"`{_ascii(mentor['checkpoint_sha256'], 64)}`",
                *([] if of_people else [accuracy]),
                f"{mentor['complete_views']:,} of {mentor['views']:,}",
                f"{mentor['encoder']['name']}{_cost(mentor['encoder'])}",
                ", ".join(kinds),
                f"{sum(has['bytes'] for has in mentor['kinds'].values()):,}",
            )
        )
    table = _table(titles, rows) if rows else "None yet."
    more = f"\n\nand {len(mentors) - MOST_ROWS:,} more" if len(mentors) > MOST_ROWS else ""
    broken = len(store.target_errors) + sum(len(s.broken) for s in store.sound_targets)
    damage = f"\n\n{broken:,} parts of it were damaged when this was written." if broken else ""
    said = (
        "The mean shift is what encoding moved keypoints by, in pixels of the heatmaps, exact "
        "against decoded, measured on what was written; keypoints are stored exactly beside. How "
        "right they are takes the dataset: `kdcache inspect` tells it."
        if of_people
        else "The mean KL divergence is what encoding cost, exact against decoded, at temperature "
        f"{', '.join(map(str, TEMPERATURES))}, measured on what was written."
    )
    return f"## From what\n\n{table}{more}{damage}\n\n{said}"


def _cost(encoder: dict[str, Any]) -> str:
    errors = encoder["measured_error"]
    if not any(encoder[f"{bound}_error"] for bound in ("relative", "absolute", "root")):
        return " (exact)"
    if "keypoint" in errors:
        return f" ({errors['keypoint']:.1e})"
    costs = [errors[key] for t in TEMPERATURES if (key := f"kl_t{t}") in errors]
    return f" ({', '.join(f'{cost:.1e}' for cost in costs)})" if costs else ""


def _making(store: TargetStore, found: dict[str, Any]) -> str:
    names = [mentor["name"] for mentor in found["mentors"]]
    if not names:
        return "## By what command\n\nNothing was computed yet."
    more = [*recipe_words(store.manifest), "--view-seed", str(found["view_seed"])]
    more += ["--views", str(found["views"])]
    command = healing_command(store, names, place=PLACE, more=more)
    return (
        "## By what command\n\n"
        + _code(*command.split(" && "))
        + "\n\nmakes the same store, given the mentors' checkpoints with the hashes above (in the "
        "mentor library, or by `--checkpoint NAME=FILE`) and the dataset. What it cannot know: "
        "where these lie, which samples were chosen if not all were, and of encoders that were "
        "fitted (`residual`, `coarse`) the `--fidelity`. Numbers are the same to the last bit on "
        "the same kind of machine with the same versions of the libraries."
    )


def _using(store: TargetStore) -> str:
    training = training_command(store, place=PLACE)
    lines = [f"kdcache pull URL --store {PLACE}    # URL: where this card lies"]
    lines += [f"kdcache verify {PLACE}"]
    lines += [training] if training is not None else []
    return (
        "## How to use it\n\n"
        + _code("pip install kdcache", *lines)
        + "\n\n`verify` reads every byte. Whether the numbers are those mentors' only "
        "`verify --recompute K` can tell, with their checkpoints: a store can teach nonsense, it "
        "cannot run anything."
    )


def _licence(found: dict[str, Any], licence: str | None) -> str:
    given = (
        "Its owner has not said under which licence it may be used."
        if licence is None
        else f"Its owner hands it on under: {_text(licence, 200)}."
    )
    return (
        f"## Licence\n\n{given} Targets derive from the dataset and from the mentors, so what both "
        f"allow matters: the licence of {_text(found['dataset']['name'])}, that of each "
        "checkpoint, and that of whatever these were trained on."
    )


def _versions(written_by: dict[str, str]) -> str:
    listed = [f"{_text(k, 40)} {_text(v, 40)}" for k, v in list(written_by.items())[:20]]
    return f"## Written by\n\n{', '.join(listed)}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(*lines: str) -> str:
    """A fenced block. A line begins with a command's name, so none can end the fence."""
    shown = [readable(line).replace("\n", " ") for line in lines]
    return "\n".join(["```bash", *shown, "```"])


def _text(value: object, most: int = 100) -> str:
    """A stranger's text as text: cut, on one line, with Markdown's and HTML's signs escaped."""
    text = readable(str(value)[: most + 1], 1000).replace("\n", " ")
    text = text if len(text) <= most else f"{text[: most - 3]}..."
    escaped = re.sub(r"([!-+/:-@\[-`{-~])", r"\\\1", text)
    return re.sub(r"(?i)(www)\.", r"\1\\.", escaped)


def _ascii(value: object, most: int = 60) -> str:
    """A stranger's text for the head and for code: plain signs only, others are left out."""
    return re.sub(r"[^A-Za-z0-9 .:_-]", "", str(value))[:most]
