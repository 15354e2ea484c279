"""The card of a hub: names out of strangers' stores are shown, and are never markup."""

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kdcache.share.hub_card import MOST_MENTORS, MOST_STORES, hub_card
from kdcache.store.hub_documents import HubIndex, ListedStore, ListedTargets

TARGETS = ListedTargets(
    identity="a" * 64, mentor="r8", architecture="resnet8", checkpoint_sha256="b" * 64,
    precision="fp32", batch=64, kind="logits", encoder="float16", views=2, complete_views=2,
    chunks=4, bytes=1600, accuracy=50.0,
)  # fmt: skip
STORE = ListedStore(
    fingerprint="c" * 64, dataset="digits", split="train", samples=40, classes=10,
    recipe="crop-flip", view_seed=0, targets=(TARGETS,), pushes=("d" * 64,),
)  # fmt: skip
ENTRY = {"file": "x.json", "name": "r8", "dataset": "digits", "sha256": "e" * 64, "bytes": 7,
         "suffix": ".pt"}  # fmt: skip
HARMFUL = (
    "](http://evil)", "<img src=x>", "http://evil.example", "www.evil.example", "`code`", "a|b",
    "\n# title", "_x_", "**x**", "![x](y)", "&lt;", "\u202e", "---\nx: y", "$x$", "\\", "~~x~~",
    "@everyone", "[[x]]", "javascript:x",
)  # fmt: skip


def around_code(card: str) -> str:
    """The card without what stands in code, where nothing is markup."""
    return re.sub(r"`[^`\n]*`", "", card)


def of(text: str) -> HubIndex:
    targets = replace(TARGETS, mentor=text, encoder=text)
    store = replace(STORE, dataset=text, split=text, targets=(targets,))
    return HubIndex(stores={"c" * 64: store}, mentors=({**ENTRY, "name": text, "dataset": text},))


PLAIN = around_code(hub_card(of("plain"), "s3://team/hub"))


@given(text=st.one_of(st.text(max_size=200), st.sampled_from(HARMFUL)))
def test_no_text_changes_what_stands_around_it(text: str) -> None:
    card = hub_card(of(text), "s3://team/hub")
    assert around_code(card) == PLAIN
    assert card.count("`") == hub_card(of("plain"), "s3://team/hub").count("`")
    assert all(character.isprintable() or character == "\n" for character in card)


def test_what_is_plain_is_shown_as_it_is() -> None:
    card = hub_card(HubIndex(stores={"c" * 64: STORE}, mentors=(ENTRY,)), "s3://team/hub")
    assert f"| [{'c' * 16}](stores/{'c' * 64}/README.md) | `digits` (`train`) | 2 |" in card
    assert "| `r8` `float16` | 0.0 |" in card
    assert "Mentors' checkpoints: `r8` (`digits`)." in card
    assert "    kdcache list s3://team/hub\n" in card


def test_a_card_has_an_end() -> None:
    many = replace(STORE, targets=(TARGETS,) * 3000)
    stores = {f"{n:064x}": replace(many, fingerprint=f"{n:064x}") for n in range(MOST_STORES + 500)}
    card = hub_card(HubIndex(stores=stores, mentors=(ENTRY,) * 5000), "s3://team/hub")
    assert f" and {3000 - MOST_MENTORS:,} more | " in card
    assert f" and {5000 - MOST_MENTORS:,} more." in card
    assert card.count("\n| [") == MOST_STORES
    assert len(card) < 2**21
