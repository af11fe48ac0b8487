"""The files beside the weights of a model for transformers: config, tokenizer, model card.

What an imported run kept of its folder (``RUN/huggingface``) goes back as it was.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bmojo.errors import UserError
from bmojo.files import write_atomically

__all__ = ["KEPT", "keep", "kept_config", "model_card", "write_config", "write_tokenizer"]

KEPT = "huggingface"
"""The folder of a run with the files that it was imported with."""

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip

END = "<|endoftext|>"


def keep(source: Path, run: Path) -> None:
    """Copy the files beside the weights from a folder of Hugging Face into a run."""
    folder = run / KEPT
    folder.mkdir()
    for name in (CONFIG, GENERATION, *TOKENIZER):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def kept_config(run: Path) -> dict[str, Any]:
    """The ``config.json`` that a run was imported with; {} if it was not."""
    path = run / KEPT / CONFIG
    try:
        return dict(json.loads(path.read_text(encoding="utf8"))) if path.is_file() else {}
    except (OSError, ValueError, TypeError):
        raise UserError(f"{path}: is not JSON; put the file back, or remove it") from None


def write_config(folder: Path, run: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``config.json`` and ``generation_config.json``; what the former holds.

    Entries of the config that the run was imported with stay where they say nothing about what
    is computed: names of special tokens, the longest sequence.
    """
    kept, config = kept_config(run), dict(found)
    if kept.get("model_type") == config["model_type"]:
        ids = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings")
        config |= {name: kept[name] for name in ids if name in kept}
        config = {**kept, **config}
    _write_json(folder / CONFIG, config)
    generation = run / KEPT / GENERATION
    if generation.is_file():
        shutil.copyfile(generation, folder / GENERATION)
    else:
        # A document begins with the token that ends the one before.
        eos = config["eos_token_id"]
        own = ("bos_token_id", "eos_token_id", "pad_token_id") if eos is not None else ()
        _write_json(folder / GENERATION, {"do_sample": True, **dict.fromkeys(own, eos)})
    return config


def write_tokenizer(folder: Path, run: Path, tokenizer: Any) -> None:
    """Write the files of a tokenizer, such that transformers finds it."""
    kept = [run / KEPT / name for name in TOKENIZER if (run / KEPT / name).is_file()]
    for path in kept:
        shutil.copyfile(path, folder / path.name)
    if kept or tokenizer is None:
        return
    kind = str(getattr(tokenizer, "spec", "")).partition(":")[0]
    content: Any = getattr(tokenizer, "content", None)
    if kind == "sentencepiece":
        (folder / "tokenizer.model").write_bytes(content)
        return
    if kind == "bytes":
        end, definition = END, _bytes_tokenizer(tokenizer.eos)
        _write_json(folder / "tokenizer.json", definition)
    elif kind == "tokenizers":
        end = next(t for t, i in _vocabulary(content).items() if i == tokenizer.eos)
        (folder / "tokenizer.json").write_bytes(content)
    else:
        return
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end}
    _write_json(folder / "tokenizer_config.json", facts)


def _vocabulary(content: bytes) -> dict[str, int]:
    """Tokens of a JSON file of the package tokenizers, and their ids."""
    definition = json.loads(content)
    added = {token["content"]: token["id"] for token in definition.get("added_tokens", ())}
    return {**definition["model"].get("vocab", {}), **added}


def _bytes_tokenizer(eos: int) -> dict[str, Any]:
    """The tokenizer of bytes as a file of the package tokenizers: each byte is a word."""
    from bmojo.data.text.tokenizers import _byte_alphabet

    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": eos, "content": END, "special": True, **added}],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": False},
        "post_processor": None,
        "decoder": {**level, "use_regex": False},
        "model": {"type": "BPE", "vocab": _byte_alphabet(), "merges": []},
    }


def model_card(
    config: Mapping[str, Any],
    parameters: int,
    step: int,
    tokens: int,
    data: Sequence[str],
    results: Sequence[Mapping[str, Any]],
    version: str,
) -> str:
    """The README.md of an exported model."""
    kind = config["architectures"][0]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- bmojo",
        f"- {config['model_type']}",
        "---",
        "",
        f"# A {kind} of {parameters:,} parameters",
        "",
        f"Exported by bmojo {version} from step {step:,} of a run, after {tokens:,} tokens of "
        f"{', '.join(data)}.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM",
        "",
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        "```",
        "",
        f"Longest sequence in training: {config['max_position_embeddings']:,} tokens. "
        f"Parameters: {config['dtype']}.",
    ]
    if results:
        lines += ["", "| evaluation | accuracy | loss |", "| --- | --- | --- |"]
        lines += [f"| {r['evaluation']} | {r['accuracy']:.4f} | {r['loss']:.4f} |" for r in results]
    return "\n".join(lines) + "\n"


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
