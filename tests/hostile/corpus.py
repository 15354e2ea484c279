"""Hostile stores by name: each a good store (`good.make_good`) changed in one way, and sealed."""

from tests.hostile import contents, documents, files, fitted, payloads

CASES = {**documents.CASES, **files.CASES, **contents.CASES, **payloads.CASES, **fitted.CASES}
THOROUGH = documents.THOROUGH  # tried in part by the tests, as a whole by `trial`
QUICK = [name for name in CASES if name not in THOROUGH]
_TELLING = (
    *("manifest:", "mentor:", "mentor ", "lists:", "zstd", "chunk", "a record", "records", "error"),
    *("an index", "more right", "fitted: a "),
)
_CHOSEN = {name for name in QUICK if name.startswith(_TELLING)}
FAST = [name for n, name in enumerate(QUICK) if name in _CHOSEN or n % 25 == 0]
