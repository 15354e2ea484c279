"""Counts of one kind of torture, and the table they are printed in."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

_LAYOUT = "{what:<62} {rounds:>7} {lost:>6} {wrong:>9} {healed:>8} {seconds:>8}"


@dataclass(kw_only=True)
class Tally:
    """One row. `problems`: what to look at, with how to make it happen again.

    `rounds`: disturbances; `healed`: those after which one more precompute made the undisturbed
    store.
    """

    what: str
    rounds: int = 0
    lost: int = 0
    wrong: int = 0
    healed: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.lost or self.wrong or self.problems) and self.healed == self.rounds

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the seconds spent inside."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def report(self, how: str, problems: Sequence[str]) -> None:
        """Notes what one round came to, if anything; `how`: what was done to the store."""
        if problems:
            more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
            self.problems.append(f"{how}: {'; '.join(problems[:3])}{more}")

    def line(self) -> str:
        """As printed."""
        return _LAYOUT.format(
            what=self.what,
            rounds=f"{self.rounds:,}",
            lost=self.lost,
            wrong=self.wrong,
            healed=f"{self.healed:,}",
            seconds=f"{self.seconds:.1f}",
        )


def heading() -> str:
    """The line above the rows."""
    return _LAYOUT.format(
        what="what",
        rounds="rounds",
        lost="lost",
        wrong="believed",
        healed="healed",
        seconds="seconds",
    )
