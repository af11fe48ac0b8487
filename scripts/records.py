"""Summaries of finished runs, kept beside the pages that show them."""

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

KEPT = (
    "command",
    "git_revision",
    "versions",
    "device",
    "step",
    "tokens",
    "parameters",
    "embedding_parameters",
    "state_bytes",
    "key_value_bytes",
    "training_flops",
    "wall_seconds",
    "evaluations",
)


def record(runs: Path, path: Path) -> dict[str, dict]:
    """Summaries by run, those in ``path`` and the finished ones in ``runs``; kept in ``path``.

    With the median of a run's tokens per second, and, where ``bmojo eval`` has measured them,
    its losses by position and on repeated n-grams. In commands the place of a text becomes DIR.
    """
    known = json.loads(path.read_text()) if path.exists() else {}
    for file in sorted(runs.glob("*-seed*/summary.json")):
        summary = json.loads(file.read_text())
        if summary["status"] != "finished":
            continue
        kept = {name: summary[name] for name in KEPT if name in summary}
        kept["command"] = re.sub(r"'?TEXT=\S+", "TEXT=DIR", kept["command"])
        lines = map(json.loads, (file.parent / "speed.jsonl").read_text().splitlines())
        speeds = [line["tokens_per_second"] for line in lines if line.get("tokens_per_second")]
        if speeds:
            kept["tokens_per_second"] = round(statistics.median(speeds), 1)
        kinds = {"length": "positions", "perplexity": "positions", "ngrams": "rows",
                 "regret": "rows", "passages": "rows"}  # fmt: skip
        for kind, rows in kinds.items():
            measured = file.parent / "evaluation" / f"{kind}.json"
            if measured.exists():
                field = "again" if kind == "passages" else kind
                kept[field] = json.loads(measured.read_text())[rows]
        known[file.parent.name] = kept
    known = dict(sorted(known.items()))
    path.write_text(json.dumps(known, indent=1) + "\n")
    return known


def by_cell(runs: dict[str, dict]) -> dict[str, list[dict]]:
    """Summaries of all seeds of each cell."""
    cells = defaultdict(list)
    for name, summary in runs.items():
        cells[re.fullmatch(r"(.*)-seed\d+", name)[1]].append(summary)
    return dict(cells)


def spread(values: list[float], digits: int = 2) -> str:
    """The mean, and with more than one value the lowest and the highest."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def markdown(head: list[str], rows: list[list]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
