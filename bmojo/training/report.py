"""What a run says at its start and its end: costs, versions, tables."""

import importlib.metadata
import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from bmojo.model import ModelConfig, describe
from bmojo.training.config import Evaluation, Stage
from bmojo.training.evaluate import Row
from bmojo.training.parameters import Parameters, count

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def costs(model_config: Any, parameters: Parameters, curriculum: Sequence[Stage]) -> dict[str, Any]:
    """Parameters, and, where the model tells, bytes of state and floating-point operations.

    ``state_bytes`` is one row's recurrent state after the longest training sequence,
    ``key_value_bytes`` what attention keeps of it. ``flops_per_token`` is forward, by length;
    ``training_flops`` takes a backward pass for two forward ones.
    """
    facts: dict[str, Any] = {"parameters": count(parameters)}
    if not isinstance(model_config, ModelConfig):
        return facts
    description = describe(model_config)
    lengths = sorted({stage.data.length for stage in curriculum})
    per_token = {length: description.flops_per_token(length) for length in lengths}
    facts["embedding_parameters"] = description.embedding_parameters
    facts["state_bytes"], facts["key_value_bytes"] = description.memory(lengths[-1])
    facts["flops_per_token"] = {str(length): flops for length, flops in per_token.items()}
    facts["training_flops"] = 3.0 * sum(
        stage.steps * stage.batch_size * stage.data.length * per_token[stage.data.length]
        for stage in curriculum
    )
    return facts


def implementations(model_config: Any) -> dict[str, str]:
    """Who computes what has a choice of implementation on this machine: scans and attention.

    Raises:
      ValueError: an implementation was asked for by name that is not for this machine.
    """
    found: dict[str, str] = {}
    for mixer in model_config.pattern:
        found |= getattr(mixer, "implementations", {})
    return found


def provenance(seed: int) -> dict[str, Any]:
    """Where a result comes from: command, code, versions, machine, seed."""
    versions = {name: version(name) for name in PACKAGES}
    device = jax.devices()[0]
    return {
        "seed": seed,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git_revision": git_revision(),
        "versions": {"bmojo": version("bmojo"), "python": platform.python_version(), **versions},
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
    }


def git_revision() -> str | None:
    """Revision of the source tree, with a + if it has changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+" if changed else "")


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def version(name: str) -> str | None:
    """Of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def slice_name(evaluation: Evaluation) -> str | None:
    """What an evaluation's groups count; None if its data has no groups."""
    return getattr(evaluation.data, "slices", None)


def chance(evaluation: Evaluation) -> float | None:
    """Accuracy of guessing, if the task tells."""
    return getattr(evaluation.data, "chance", None)


def one_line(rows: Sequence[Row]) -> str:
    """What was measured over all groups, in a few words."""
    overall = [row for row in rows if row["group"] is None]
    text = [f"{row['evaluation']} {_loss(row)}" for row in overall if "bits_per_byte" in row]
    tasks = [f"{r['evaluation']} {r['accuracy']:.3f}" for r in overall if "bits_per_byte" not in r]
    return "  ".join([*text, *(["accuracy", *tasks] if tasks else [])])


def _loss(row: Row) -> str:
    return f"{row['bits_per_byte']:.3f} bits/byte"


def result_tables(rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> list[Table]:
    """Accuracy by group of the tasks that have groups; loss and perplexity of the others."""
    sliced = [evaluation for evaluation in evaluations if slice_name(evaluation)]
    others = [evaluation for evaluation in evaluations if not slice_name(evaluation)]
    tables = []
    if sliced and rows:
        tables.append(accuracy_table(rows, sliced))
    if others and rows:
        tables.append(loss_table(rows, others))
    return tables


def loss_table(rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> Table:
    """Loss, perplexity, accuracy and, of text, bits per byte."""
    table = Table(title="next-token prediction")
    for name in ("evaluation", "targets", "loss (nats)", "perplexity", "bits/byte", "accuracy"):
        table.add_column(name, justify="left" if name == "evaluation" else "right")
    overall = {row["evaluation"]: row for row in rows if row["group"] is None}
    for evaluation in evaluations:
        row = overall[evaluation.name]
        bits = f"{row['bits_per_byte']:.4f}" if "bits_per_byte" in row else ""
        numbers = (f"{row['count']:,}", f"{row['loss']:.4f}", f"{math.exp(row['loss']):.3f}", bits)
        table.add_row(evaluation.name, *numbers, f"{row['accuracy']:.3f}")
    return table


def accuracy_table(rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> Table:
    """Accuracy by evaluation and group beside the level of chance."""
    shown = {evaluation.name for evaluation in evaluations}
    rows = [row for row in rows if row["evaluation"] in shown]
    groups = sorted({row["group"] for row in rows if row["group"] is not None})
    names = " / ".join(dict.fromkeys(slice_name(e) or "group" for e in evaluations))
    table = Table(title=f"accuracy by {names}")
    table.add_column("evaluation")
    for group in [*groups, "all", "chance"]:
        table.add_column(str(group), justify="right")
    for evaluation in evaluations:
        found = {row["group"]: row for row in rows if row["evaluation"] == evaluation.name}
        cells = [f"{found[g]['accuracy']:.3f}" if g in found else "" for g in [*groups, None]]
        level = chance(evaluation)
        table.add_row(evaluation.name, *cells, "" if level is None else f"{level:.3f}")
    return table
