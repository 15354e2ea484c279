"""Properties of hypothesis over hostile stores, run in a watched process by `test_fuzzing`.

`python -m tests.hostile.properties FOLDER EXAMPLES [hubs]`
"""

import copy
import os
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.hostile.documents import JUNK
from tests.hostile.forging import agree, read, resealed, write
from tests.hostile.hub_forging import agree_hub
from tests.hostile.hub_ways import HUB_READING, HUB_WRITING
from tests.hostile.trial import Laboratory
from tests.hostile.ways import READING, WRITING

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(),
    st.sampled_from(list(JUNK.values())),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
QUIET = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something lies in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in inner:
        found.append((*at, key))
        if isinstance(item, (dict, list)):
            found += places(item, (*at, key))
    return found


def main(folder: str, examples: str, what: str = "stores") -> None:
    """Ends with an exception, and hypothesis' smallest example, at the first fault."""
    hubs = what == "hubs"
    ways = HUB_READING | HUB_WRITING if hubs else READING | WRITING
    laboratory = Laboratory(Path(folder), ways, hubs=hubs)
    template, make_agree = laboratory.template, agree_hub if hubs else agree
    documents = sorted(path.relative_to(template) for path in template.rglob("*.json"))
    tried = 0

    def require_no_fault(make: Any) -> None:
        nonlocal tried
        tried += 1
        assert laboratory.try_store(make)["faults"] == []

    @seed(0)
    @settings(QUIET, max_examples=int(examples))
    @given(data=st.data())
    def any_value_in_any_place(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(documents))
        document = read(template / name)
        at = data.draw(st.sampled_from(places(document)))
        action = data.draw(st.sampled_from(["put", "put", "put", "remove", "rename", "agree"]))
        value, key = copy.deepcopy(data.draw(VALUES)), data.draw(st.text())

        def make(root: Path, outside: Path) -> None:
            holder = document
            for step in at[:-1]:
                holder = holder[step]
            if action == "remove":
                del holder[at[-1]]
            elif action == "rename" and isinstance(holder, dict):
                holder[key] = holder.pop(at[-1])
            else:
                holder[at[-1]] = value
            write(root / name, document)
            if action != "put":
                make_agree(root)

        require_no_fault(make)

    @seed(0)
    @settings(QUIET, max_examples=int(examples))
    @given(data=st.data())
    def any_bytes_anywhere(data: st.DataObject) -> None:
        files = sorted(path for path in template.rglob("*") if path.is_file())
        path = data.draw(st.sampled_from(files)).relative_to(template)
        content = (template / path).read_bytes()
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 40)))
        new = content[:start] + data.draw(st.binary(max_size=40)) + content[end:]
        sealed = data.draw(st.booleans())
        require_no_fault(
            lambda root, outside: (root / path).write_bytes(resealed(new) if sealed else new)
        )

    any_value_in_any_place()
    any_bytes_anywhere()
    print(f"tried {tried} {what}")


if __name__ == "__main__":
    os.umask(0o077)
    main(*sys.argv[1:])
