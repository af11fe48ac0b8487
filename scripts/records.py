"""Summaries of finished runs in ``results/``, a line each, and tables of them."""

import argparse
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

KEPT = (
    "command", "git_revision", "versions", "device", "step", "tokens", "parameters",
    "embedding_parameters", "state_bytes", "key_value_bytes", "training_flops", "wall_seconds",
)  # fmt: skip
KINDS = {"length": "positions", "perplexity": "positions", "ngrams": "rows", "regret": "rows",
         "passages": "rows"}  # fmt: skip
"""Evaluations that are recorded where ``bmojo eval`` has made them, and the name of their rows."""
COLUMNS = {
    "group", "accuracy", "loss", "bits_per_byte",  # evaluations
    "start", "count", "kind",  # length, perplexity, ngrams
    "length", "oracle", "model", "regret", "excess", "near",  # regret
    "passage", "gap", "slots", "other", "again", "saved",  # passages
}  # fmt: skip
"""Columns that tables and figures show."""


def parser(doc: str, runs: str) -> argparse.ArgumentParser:
    """The options that all reports share."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--runs", type=Path, default=Path(runs), help="folder of runs")
    made.add_argument("--records", type=Path, default=Path("results"), help="folder of records")
    made.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of figures")
    return made


def record(runs: Path, path: Path) -> dict[str, dict]:
    """Summaries by run, those in ``path`` and the finished ones in ``runs``; kept in ``path``.

    With the median of a run's tokens per second, and the rows of ``KINDS``. In commands the place
    of a text becomes DIR.
    """
    known = json.loads(path.read_text()) if path.exists() else {}
    for file in sorted(runs.glob("*-seed*/summary.json")):
        summary = json.loads(file.read_text())
        if summary["status"] != "finished":
            continue
        kept = {name: summary[name] for name in KEPT if name in summary}
        kept["command"] = re.sub(r"'?TEXT=\S+", "TEXT=DIR", kept["command"])
        kept["evaluations"] = shown(summary["evaluations"])
        lines = map(json.loads, (file.parent / "speed.jsonl").read_text().splitlines())
        speeds = [line["tokens_per_second"] for line in lines if line.get("tokens_per_second")]
        if speeds:
            kept["tokens_per_second"] = round(statistics.median(speeds), 1)
        for kind, rows in KINDS.items():
            measured = file.parent / "evaluation" / f"{kind}.json"
            if measured.exists():
                kept["again" if kind == "passages" else kind] = shown(
                    json.loads(measured.read_text())[rows]
                )
        known[file.parent.name] = kept
    return write(known, path)


def shown(rows: list[dict]) -> list[dict]:
    """Rows with the columns that tables and figures show."""
    return [{name: row[name] for name in row if name in COLUMNS} for row in rows]


def write(known: dict[str, dict], path: Path) -> dict[str, dict]:
    """Write summaries, a run a line, and return them in the order of the file."""
    known = dict(sorted(known.items()))
    lines = (f"{json.dumps(name)}: {json.dumps(summary)}" for name, summary in known.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
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
