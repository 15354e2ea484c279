"""A hub's README.md: what it holds, for people who find it in a browser."""

from kdcache.store.hub_documents import HubIndex, ListedStore
from kdcache.tasks import PRIMARY

MOST_STORES, MOST_MENTORS = 1000, 20  # that are told, and of each store
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:+/% ,()")


def hub_card(index: HubIndex, url: str) -> str:
    """Markdown; the front matter is a Hugging Face dataset card's.

    Texts out of stores are of whoever pushed them: what could be markup is left out.
    """
    rows = [_row(store) for _, store in sorted(index.stores.items())[:MOST_STORES]]
    table = "\n".join(
        ["| store | dataset | views | mentors | MB |", "|---|---|---|---|---|", *rows]
    )
    mentors = _few(
        [f"{_code(entry['name'])} ({_code(entry['dataset'])})" for entry in index.mentors]
    )
    return f"""---
tags:
- knowledge-distillation
- kdcache
---

# A kdcache hub

What mentor networks said about seeded, replayable views of datasets, stored once so that any
number of students can be trained from it. `pip install kdcache`, then:

    kdcache list {plain(url)}
    kdcache pull {plain(url)}/stores/FINGERPRINT
    kdcache train-student --store {plain(url)}/stores/FINGERPRINT

{table if rows else "Nothing has been pushed yet."}

{f"Mentors' checkpoints: {mentors}." if mentors else ""}

Each store's own README.md says what it was made from. What may be done with targets follows from
the licences of the dataset and of the mentors.
"""


def _row(store: ListedStore) -> str:
    primary = [one for one in store.targets if one.kind in PRIMARY]
    mentors = _few([f"{_code(one.mentor)} {_code(one.encoder)}" for one in primary])
    return (
        f"| [{store.fingerprint[:16]}](stores/{store.fingerprint}/README.md) | "
        f"{_code(store.dataset)} ({_code(store.split)}) | {store.views} | {mentors} | "
        f"{store.bytes / 1e6:,.1f} |"
    )


def _few(told: list[str]) -> str:
    more = f" and {len(told) - MOST_MENTORS:,} more" if len(told) > MOST_MENTORS else ""
    return ", ".join(told[:MOST_MENTORS]) + more


def _code(text: str) -> str:
    """A text that is shown as it is: not even an address in it becomes a link."""
    return f"`{plain(text) or '-'}`"


def plain(text: str) -> str:
    """A text with nothing in it that Markdown or YAML would read as markup."""
    return "".join(c if c in _PLAIN else "-" for c in text[:100])
