"""Other implementations, each in a process and an environment of its own.

A worker is a program that imports no bmojo. It reads a request, one line of JSON, does it, and
answers with one line; between requests it waits, so that only one process computes at a time.
"""

import dataclasses
import json
import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bmojo.benchmark.cases import Case, Check
from bmojo.benchmark.models import Dimensions
from bmojo.benchmark.steps import STEP_GROUP
from bmojo.cache import cache_directory
from bmojo.errors import UserError, suggestion

__all__ = ["PEERS", "Kind", "Peer", "default_environments", "find", "peer_case", "pausing"]

PAUSE = 0.05
"""Seconds before each sample, for the threads of the process before to come to rest."""
NEAR_CHANCE = 0.5
"""By how much of ln V a first loss may differ from it."""
LEAK = 1e-4
"""Largest change of earlier logits, beside the largest logit, when later tokens change."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """An implementation to compare with.

    Attributes:
      environment: folder of its Python, as scripts/peers/install.py makes it.
      worker: the program, in the folder ``workers``.
      model: what the worker calls it.
    """

    environment: str
    worker: str
    model: str


PEERS = {
    "hf_mamba2": Kind("torch", "torch_worker.py", "mamba2"),
    "hf_mistral": Kind("torch", "torch_worker.py", "mistral"),
    "hf_zamba2": Kind("torch", "torch_worker.py", "zamba2"),
    "hf_falcon_h1": Kind("torch", "torch_worker.py", "falcon_h1"),
    "mamba2_jax": Kind("mamba2_jax", "jax_worker.py", "mamba2"),
    "recurrentgemma": Kind("recurrentgemma", "jax_worker.py", "griffin"),
}
"""By name: the first four are of Hugging Face transformers."""


def default_environments() -> Path:
    """Where scripts/peers/install.py makes environments unless it is told otherwise."""
    return cache_directory() / "peers"


def find(names: Sequence[str], environments: Path) -> dict[str, list[str]]:
    """The command that starts each peer's worker.

    Raises:
      UserError: there is no such peer, or its environment has not been made.
    """
    commands = {}
    for name in dict.fromkeys(names):
        if name not in PEERS:
            raise UserError(f"--peers: there is no {name!r}; {suggestion(name, PEERS)}")
        kind = PEERS[name]
        python = environments.expanduser().absolute() / kind.environment / "bin" / "python"
        if not python.exists():
            raise UserError(
                f"--environments: {python} is missing, which {name} needs; make it with "
                f"'python scripts/peers/install.py {kind.environment} --to {environments}'"
            )
        worker = Path(__file__).parent / "workers" / kind.worker
        commands[name] = [str(python), str(worker)]
    return commands


class Peer:
    """A worker that runs until the end of a ``with`` block.

    Args:
      name: what to call it in errors.
      command: starts it.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+", encoding="utf8", errors="replace")
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the worker: its input ends, and if that does not do it, it is stopped."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """Have something done; returns the answer when it is.

        Raises:
          UserError: the worker says that it failed, has ended, or speaks no JSON.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **options}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended(do) from None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended(do)
        try:
            answer = json.loads(line)
            failure = answer.get("error")
        except (ValueError, AttributeError):
            raise UserError(
                f"{self.name}: the worker answered {line.strip()[:80]!r} to {do!r}, which is no "
                "JSON object; see to its environment"
            ) from None
        if failure is not None:
            raise UserError(f"{self.name}: {do!r} failed in the worker: {failure}")
        return answer

    def _ended(self, do: str) -> UserError:
        code = self._process.wait()
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or ["it said nothing"])[-1]
        return UserError(f"{self.name}: the worker ended with code {code} at {do!r}: {last}")


def peer_case(
    peer: Peer,
    kind: Kind,
    dimensions: Dimensions,
    batch: int,
    length: int,
    window: int | None,
    threads: int,
    baseline: str | None,
) -> tuple[Case, list[Check], Mapping[str, str]]:
    """Make a peer's model as near as can be to ours, and check it.

    Args:
      peer: its worker.
      kind: which model.
      dimensions: of ours.
      batch: rows.
      length: tokens of a step.
      window: of attention, where the peer's has one; None: the whole past.
      threads: that it may use.
      baseline: case to compare with.

    Returns:
      The case, its checks, and the versions of the peer's packages.
    """
    made = peer.ask(
        "make",
        model=kind.model,
        width=dimensions.width,
        layers=dimensions.layers,
        heads=dimensions.heads,
        vocabulary=dimensions.vocabulary,
        parameters=dimensions.target,
        window=window,
        batch=batch,
        length=length,
        threads=threads,
    )
    checked = peer.ask("check")
    chance = math.log(dimensions.vocabulary)
    checks = [
        Check(peer.name, "first loss and ln V", _off(checked["loss"], chance), NEAR_CHANCE),
        Check(peer.name, "earlier logits when later tokens change", _number(checked["leak"]), LEAK),
    ]

    def run() -> float:
        answer = peer.ask("step")
        if not math.isfinite(_number(answer["loss"])):
            raise UserError(f"{peer.name}: the loss of a step is not finite")
        return float(answer["seconds"])

    facts = {"parameters": made["parameters"], "tokens": batch * length, "whose": made["whose"]}
    case = Case(
        peer.name,
        STEP_GROUP,
        run,
        baseline=baseline,
        compile_seconds=made.get("compile_seconds"),
        facts=facts,
        calls=1,
        pause=PAUSE,
    )
    return case, checks, made["versions"]


def pausing(case: Case) -> Case:
    """One of our cases, as it takes turns with peers."""
    facts = {**case.facts, "whose": "bmojo"}
    return dataclasses.replace(case, facts=facts, pause=PAUSE, calls=1)


def _off(loss: float | None, chance: float) -> float:
    return abs(_number(loss) / chance - 1)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
