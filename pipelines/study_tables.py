from typing import Any
def study_tables(runs: list[dict[str, Any]]) -> list[str]:
    return [str(len(runs))]
