"""The fuzzer guided by coverage: `python -m tests.hostile.guided`, with the options of `fuzz`.

Needs atheris (`pip install atheris`; no dependency of ours), which instruments what is imported
here, and reports by itself.
"""

import importlib
import sys
from collections.abc import Callable

atheris = importlib.import_module("atheris")
with atheris.instrument_imports(include=["kdcache"]):
    fuzz = importlib.import_module("tests.hostile.fuzz")


def guide(one: Callable[[bytes], None], minutes: float, seed: int) -> None:
    """Runs libFuzzer, which ends the process. Its own alarm would take the place of the watch's."""
    options = [f"-max_total_time={int(60 * minutes)}", f"-seed={seed + 1}", "-timeout=0"]
    options += [
        f"-max_len={fuzz.MOST_BYTES}",
        "-rss_limit_mb=0",
        "-handle_alrm=0",
        "-len_control=0",
    ]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz.main(guide)
