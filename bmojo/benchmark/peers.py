"""Other implementations, each in a process and an environment of its own.

A worker is a program that imports no bmojo (``scripts/peers/``). It reads a request, one line of
JSON, fulfils it and answers with one line. Between requests it waits, so that only one process
computes at a time.
"""

import contextlib
import dataclasses
import json
import math
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bmojo.benchmark.cases import Case, Check
from bmojo.benchmark.models import Dimensions
from bmojo.benchmark.steps import STEP_GROUP
from bmojo.cache import cache_directory
from bmojo.errors import UserError, suggestion

PAUSE = 0.05  # seconds before each sample, for the threads of the process before to come to rest
NEAR_CHANCE = 0.5  # largest difference of a first loss from ln V, as a part of ln V
LEAK = 1e-4  # largest change of earlier logits, beside the largest logit, when later tokens change


class Implementation(NamedTuple):
    """An implementation to compare with.

    ``environment`` is the folder that scripts/peers/install.py makes, ``worker`` the module there
    that ``serve.py`` runs, ``model`` the worker's name of the model.
    """

    environment: str
    worker: str
    model: str


PEERS = {
    "hf_mamba2": Implementation("torch", "torch_worker", "mamba2"),
    "hf_mistral": Implementation("torch", "torch_worker", "mistral"),
    "hf_zamba2": Implementation("torch", "torch_worker", "zamba2"),
    "hf_falcon_h1": Implementation("torch", "torch_worker", "falcon_h1"),
    "mamba2_jax": Implementation("mamba2_jax", "jax_worker", "mamba2"),
    "recurrentgemma": Implementation("recurrentgemma", "jax_worker", "griffin"),
}
"""By name: the first four are of Hugging Face transformers."""


def find(names: Sequence[str], environments: Path | None = None) -> dict[str, list[str]]:
    """The command that starts each peer's worker.

    Raises:
      UserError: there is no such peer, or its environment has not been made.
    """
    environments = environments or cache_directory() / "peers"
    commands = {}
    for name in dict.fromkeys(names):
        if name not in PEERS:
            raise UserError(f"--peers: there is no {name!r}; {suggestion(name, PEERS)}")
        peer = PEERS[name]
        place = environments.expanduser().absolute() / peer.environment
        python, serve = place / "bin" / "python", place / "serve.py"
        for file in (python, serve):
            if not file.exists():
                raise UserError(
                    f"--environments: {file} is missing, which {name} needs; make it with "
                    f"'python scripts/peers/install.py {peer.environment} --to {environments}'"
                )
        commands[name] = [str(python), str(serve), peer.worker]
    return commands


class Worker:
    """A running worker; see :func:`start_worker`."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: Any) -> None:
        self.name, self.process, self._errors = name, process, errors

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
          UserError: the worker reports a failure, has ended, or answers no JSON.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        line = ""
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps({"do": do, **options}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"{self.name}: the worker ended with code {code} at {do!r}: {last}")
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


@contextlib.contextmanager
def start_worker(name: str, command: Sequence[str], **options: Any) -> Iterator[Worker]:
    """A worker that runs until the end of a ``with`` block; ``options`` are Popen's.

    At the end its input is closed, and if it goes on for 5 s it is killed.
    """
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+", encoding="utf8", errors="replace") as errors,
        subprocess.Popen(
            list(command), stdin=pipe, stdout=pipe, stderr=errors, text=True, **options
        ) as process,
    ):
        try:
            yield Worker(name, process, errors)
        finally:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()


def check_first_loss(name: str, loss: float | None, vocabulary: int) -> Check:
    """The check that the loss of a fresh model is near that of chance."""
    off = math.nan if loss is None else abs(loss / math.log(vocabulary) - 1)
    return Check(name, "first loss and ln V", off, NEAR_CHANCE)


def peer_case(
    worker: Worker, model: str, dimensions: Dimensions, batch: int, length: int,
    window: int | None, threads: int, baseline: str | None,
) -> tuple[Case, list[Check], Mapping[str, str]]:  # fmt: skip
    """Make a peer's model as near as can be to ours, with a window where it has one; check it.

    Returns:
      The case, its checks, and the versions of the peer's packages.
    """
    sizes = {name: getattr(dimensions, name) for name in ("width", "layers", "heads", "vocabulary")}
    sizes |= {"batch": batch, "length": length, "window": window, "threads": threads}
    made = worker.ask("make", model=model, parameters=dimensions.target, **sizes)
    checked = worker.ask("check")
    leak = math.nan if checked["leak"] is None else checked["leak"]
    checks = [
        check_first_loss(worker.name, checked["loss"], dimensions.vocabulary),
        Check(worker.name, "earlier logits when later tokens change", leak, LEAK),
    ]

    def run() -> float:
        answer = worker.ask("step")
        if answer["loss"] is None:
            raise UserError(f"{worker.name}: the loss of a step is not finite")
        return float(answer["seconds"])

    facts = {"parameters": made["parameters"], "tokens": batch * length}
    compiling = made.get("compile_seconds")
    case = Case(worker.name, STEP_GROUP, run, 1, baseline, compiling, facts=facts)
    return interleaved(case, made["whose"]), checks, made["versions"]


def interleaved(case: Case, whose: str) -> Case:
    """A case that takes turns with other processes, one call in a sample."""
    return dataclasses.replace(case, facts={**case.facts, "whose": whose}, pause=PAUSE, calls=1)
