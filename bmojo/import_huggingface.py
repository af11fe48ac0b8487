"""Run directories from folders of Hugging Face's transformers."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from flax import nnx

from bmojo import experiment as experiments
from bmojo.data.text.tokenizers import keep_tokenizer, tokenizer
from bmojo.errors import UserError
from bmojo.export import companions
from bmojo.export.huggingface import Folder
from bmojo.files import write_atomically
from bmojo.training.checkpoints import Checkpoint, Checkpoints
from bmojo.training.parameters import count, outline
from bmojo.training.run_dir import RunDir

__all__ = ["import_run", "tokenizer_spec"]

LENGTH, BATCH_SIZE, STEPS = 512, 4, 500
"""Of the training that a run's config begins with."""

EXPERIMENT = """\
Experiment.model = @Model()
Experiment.optimizer = @Optimizer()
Experiment.trainer = @Trainer()
Experiment.curriculum = (@Stage(),)
Experiment.evaluations = (@Evaluation(),)
Optimizer.learning_rate = 1e-4
Evaluation.batches = 4
"""


def import_run(
    source: Path,
    run: Path,
    final: Path,
    overrides: Sequence[str] = (),
    overlays: Sequence[str | Path] = (),
) -> list[str]:
    """Make a run directory with the model of a folder as its checkpoint of step 0.

    The config trains on text with the folder's tokenizer, or on tokens without it.

    Args:
      source: the folder, with ``config.json``, safetensors and perhaps a tokenizer.
      run: an empty folder.
      final: the name that it gets afterwards, which the config holds.
      overrides: 'KEY=VALUE' bindings over the config.
      overlays: further gin files over it.

    Returns:
      What was imported, in lines.

    Raises:
      UserError: one line with file and name of what cannot be imported, before work starts.
    """
    folder = Folder(source)
    spec, coder, lines = tokenizer_spec(source), None, []
    try:
        coder = None if spec is None else tokenizer(spec)
    except UserError as error:
        lines = [f"without its tokenizer, so that prompts are token ids: {error}"]
    if coder is not None and coder.vocab_size > folder.config.vocab_size:
        raise UserError(
            f"{source}: its tokenizer has {coder.vocab_size} tokens, config.json says "
            f"{folder.config.vocab_size}; check vocab_size"
        )
    if coder is not None:
        keep_tokenizer(coder, run)
    companions.keep(source, run)
    text = config_text(folder, _moved(spec, final) if spec and coder else None)
    directory = RunDir(run)
    write_atomically(directory.config, text)
    experiment, text = experiments.load(directory.config, overrides, overlays)
    shapes = outline(lambda: experiment.model.make(nnx.Rngs(0)))[1]
    if shapes != folder.shapes:
        raise UserError(f"{source}: the bindings change the model's parameters; leave them out")
    write_atomically(directory.config, text)
    meta = {"stage": 0, "data": None, "seed": 0, "seconds": 0.0, "updates": 0, "config": text}
    meta["imported"] = folder.model_type
    with Checkpoints(directory.checkpoints) as checkpoints:
        checkpoints.save(Checkpoint(0, folder.parameters(), None, meta), hold=False)
        checkpoints.wait()
    size = f"{count(folder.shapes):,} parameters in {folder.config.param_dtype}"
    return [f"a {folder.model_type} of {size}", *lines]


def tokenizer_spec(source: Path) -> str | None:
    """The tokenizer in a folder of Hugging Face; None if there is none that can be read."""
    for name, kind in (("tokenizer.json", "tokenizers"), ("tokenizer.model", "sentencepiece")):
        if (source / name).is_file():
            return f"{kind}:{source / name}"
    return None


def _moved(spec: str, run: Path) -> str:
    kind, _, name = spec.partition(":")
    return f"{kind}:{run / ('tokenizer' + Path(name).suffix)}"


def config_text(folder: Folder, spec: str | None) -> str:
    """Gin bindings of the model, and of an experiment around it."""
    config, lines = folder.config, [EXPERIMENT]
    parts = {type(mixer).__name__.removesuffix("Config"): mixer for mixer in config.pattern}
    names = [type(mixer).__name__.removesuffix("Config") for mixer in config.pattern]
    lines.append(f"Model.pattern = ({', '.join(f'@{name}()' for name in names)})")
    lines += _bindings("Model", config, skip=("pattern",))
    for name, mixer in parts.items():
        lines += _bindings(name, mixer)
    longest = folder.json.get("max_position_embeddings") or LENGTH
    if spec is None:
        task: dict[str, Any] = {"length": 64, "vocab_size": min(16, config.vocab_size)}
        name = "InductionHeads"
    else:
        task = {"path": "stdlib", "length": min(LENGTH, longest), "tokenizer_spec": spec}
        name, task["vocab_size"] = "Text", config.vocab_size
    lines += [f"{name}.{field} = {value!r}" for field, value in task.items()]
    lines += [f"Evaluation.name = {name.lower()!r}", f"Evaluation.batch_size = {BATCH_SIZE}"]
    lines += [f"{part}.data = @{name}()" for part in ("Stage", "Evaluation")]
    lines += [f"Stage.steps = {STEPS}", f"Stage.batch_size = {BATCH_SIZE}"]
    return "\n".join(lines) + "\n"


def _bindings(name: str, config: Any, skip: Iterable[str] = ()) -> list[str]:
    """A binding for each field that has not its default."""
    values = ((f, getattr(config, f.name)) for f in fields(config) if f.name not in skip)
    return [f"{name}.{f.name} = {value!r}" for f, value in values if value != f.default]
