"""``python -m neuron.compile RUN``: a trained model, compiled for Trainium.

Needs a machine with the Neuron SDK; without it the command says in one line what is missing.
The artifact is a TorchScript module of ``torch_neuronx.trace``: it takes tokens (batch, length),
int32, and the tensors of the state before them, and gives logits and the tensors of the state
after them. Beside it is a manifest, written last: where there is one, the artifact is whole.
**This has never run with the SDK.**
"""

import argparse
import dataclasses
import hashlib
import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from bmojo.errors import UserError
from bmojo.files import write_atomically
from bmojo.training.run_dir import RunError
from neuron.emulator import targets
from neuron.nki import CHOICE, DEGREE_VARIABLE

GUIDE = "https://awsdocs-neuron.readthedocs-hosted.com/en/latest/setup/index.html"
PACKAGES = ("nki", "neuronx-cc", "torch-neuronx", "torch", "numpy", "bmojo")
ARTIFACT = "model.pt"
MANIFEST = "manifest.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be compiled.

    Attributes:
      run: directory of the run.
      step: of its checkpoint.
      target: trn1, trn2 or trn3.
      batch: rows of a call.
      length: tokens of a call; 1 for decoding.
      decode: whether the module decodes, one token a call.
    """

    run: Path
    step: int
    target: str
    batch: int
    length: int
    decode: bool

    def described(self) -> dict[str, Any]:
        """The part of the manifest that is known before anything is compiled."""
        config = (self.run / "config.gin").read_bytes()
        return {
            "format": FORMAT,
            "run": str(self.run.absolute()),
            "config_sha256": hashlib.sha256(config).hexdigest(),
            "step": self.step,
            "target": self.target,
            "mode": "decode" if self.decode else "prefill",
            "batch": self.batch,
            "length": self.length,
            "versions": versions(),
        }


class Compiler(Protocol):
    """What compiles; :class:`Sdk`, or a stand-in for it."""

    def compile(self, request: Request, path: Path) -> dict[str, list[dict[str, Any]]]:
        """Write the artifact of a request; names, shapes and dtypes of its inputs and outputs."""


class Sdk:
    """What torch-neuronx does with a model of ``neuron.model``.

    It needs, of ``neuron.weights`` and ``neuron.model``:

    - ``load_run(run, implementation, step)``, the model of a run with its parameters;
    - ``Flat(model)``, a module of tokens and state tensors that gives logits and state tensors;
    - ``flatten(model.init_state(batch))``, the state tensors before the first token.
    """

    def compile(self, request: Request, path: Path) -> dict[str, list[dict[str, Any]]]:
        """Trace and compile the model."""
        torch: Any = importlib.import_module("torch")
        torch_neuronx: Any = importlib.import_module("torch_neuronx")
        models: Any = importlib.import_module("neuron.model")
        weights: Any = importlib.import_module("neuron.weights")
        model = weights.load_run(request.run, "nki", request.step).eval()
        state = models.flatten(model.init_state(request.batch))
        tokens = torch.zeros(request.batch, request.length, dtype=torch.int32)
        with torch.no_grad():
            traced = torch_neuronx.trace(
                models.Flat(model),
                (tokens, *state),
                compiler_workdir=str(path.parent / "compiler"),
                compiler_args=[f"--target={request.target}", "--auto-cast=none"],
            )
        torch.jit.save(traced, str(path))
        logits = [request.batch, request.length, model.config.vocab_size]
        kept = [_outline(f"state {n}", list(x.shape), x.dtype) for n, x in enumerate(state)]
        return {
            "inputs": [_outline("tokens", list(tokens.shape), tokens.dtype), *kept],
            "outputs": [_outline("logits", logits, torch.float32), *kept],
        }


def _outline(name: str, shape: list[int], dtype: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "dtype": str(dtype).removeprefix("torch.")}


def missing() -> list[str]:
    """Packages of the Neuron SDK that are not there, with the reason."""
    found = [] if CHOICE.backend == "nki" else [f"nki ({CHOICE.reason})"]
    for package, module, attribute in (
        ("neuronx-cc", "neuronxcc", "__version__"),
        ("torch-neuronx", "torch_neuronx", "trace"),
    ):
        try:
            there = hasattr(importlib.import_module(module), attribute)
        except ImportError:
            found.append(f"{package} (not installed)")
        else:
            found += [] if there else [f"{package} (a package of that name without code)"]
    return found


def versions() -> dict[str, str | None]:
    """Versions of what an artifact depends on; None where a package is not installed."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def newest_step(run: Path) -> int:
    """The step of a run's newest checkpoint.

    Raises:
      UserError: there is no run, or it has no checkpoint.
    """
    if not (run / "config.gin").is_file():
        raise RunError(f"{run}: no run is here (no config.gin); train one with bmojo train")
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    steps = [int(name) for name in names if name.isdigit()]
    if not steps:
        raise RunError(f"{folder}: there is no checkpoint; train the run until it keeps one")
    return max(steps)


def compile_request(request: Request, out: Path, compiler: Compiler) -> bool:
    """Compile, unless the artifact is there already.

    Args:
      request: what.
      out: directory of artifact and manifest; made.
      compiler: by what.

    Returns:
      Whether anything was compiled.

    Raises:
      UserError: the directory holds another artifact.
    """
    wanted = request.described()
    manifest, artifact = out / MANIFEST, out / ARTIFACT
    if manifest.exists():
        there = _read(manifest)
        other = [name for name in wanted if there.get(name) != wanted[name]]
        if other:
            raise UserError(
                f"{manifest}: {other[0]} is {there.get(other[0])!r}, asked for is "
                f"{wanted[other[0]]!r}; choose another directory with --out, or delete this one"
            )
        if artifact.is_file() and there.get("artifact") == _fingerprint(artifact):
            return False
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{ARTIFACT}.tmp"
    outlines = compiler.compile(request, temporary)
    os.replace(temporary, artifact)
    content = {**wanted, **outlines, "artifact": _fingerprint(artifact)}
    write_atomically(manifest, json.dumps(content, indent=2) + "\n")
    return True


def _read(manifest: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(manifest.read_text(encoding="utf8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{manifest}: is no manifest ({error}); delete it") from None


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""

    def count(text: str) -> int:
        number = int(text)
        if number < 1:
            raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
        return number

    made = argparse.ArgumentParser(
        prog="python -m neuron.compile",
        description="Compile a trained model for Trainium; needs the Neuron SDK.",
        epilog="Exit codes: 0 done, or done before; 2 something is missing or wrong.",
    )
    made.add_argument("run", type=Path, metavar="RUN", help="a directory that bmojo train made")
    made.add_argument("--target", choices=("trn1", "trn2", "trn3"), default="trn2")
    made.add_argument("--batch", type=count, default=1, help="rows of a call (default 1)")
    made.add_argument("--length", type=count, help="tokens of a call (default 2048)")
    made.add_argument("--decode", action="store_true", help="one token a call, with the state")
    made.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")
    made.add_argument("--out", type=Path, metavar="DIR", help="(default: RUN/neuron/...)")
    return made


def main(arguments: Sequence[str] | None = None, compiler: Compiler | None = None) -> int:
    """The command; 2 if something is missing or wrong."""
    command = parser()
    options = command.parse_args(arguments)
    if options.decode and options.length not in (None, 1):
        command.error("--length: decoding takes one token a call; leave it out")
    try:
        if compiler is None:
            lacking = missing()
            if lacking:
                raise UserError(
                    f"the Neuron SDK is not complete here: {'; '.join(lacking)}. Install it from "
                    f"AWS's own package index as the Neuron setup guide says ({GUIDE}), with the "
                    "versions of neuron/requirements.txt"
                )
            compiler = Sdk()
        cores = int(os.environ.get(DEGREE_VARIABLE) or 1)
        if options.batch % cores:
            raise UserError(
                f"--batch: {DEGREE_VARIABLE}={cores} cores share the rows of a call, and "
                f"{options.batch} can't be shared by {cores}; take a multiple, or set it to 1"
            )
        newest = newest_step(options.run)
        step = newest if options.step is None else options.step
        length = 1 if options.decode else options.length or 2048
        request = Request(options.run, step, options.target, options.batch, length, options.decode)
        kind = "decode" if options.decode else f"l{length}"
        name = f"{options.target}-step{step}-b{options.batch}-{kind}"
        out = options.out or options.run / "neuron" / name
        with targets.named(targets.resolve(options.target)):
            new = compile_request(request, out, compiler)
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {'compiled' if new else 'was there already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
