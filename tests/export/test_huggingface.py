"""Import from and export to Hugging Face, against transformers on small random models."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from bmojo.cli import app
from bmojo.errors import UserError
from bmojo.export.huggingface import Folder
from bmojo.loading import load
from bmojo.runs import open_run

transformers = pytest.importorskip("transformers", reason="it is of the extra torch")
torch = pytest.importorskip("torch", reason="it is of the extra torch")
pytestmark = pytest.mark.torch

V = 97
COMMON = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2}
COMMON |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
ATTENTION = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
SSD = {"state_size": 16, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8}
CASES = {
    "llama": ("Llama", {**ATTENTION, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}),
    "llama, biases, wide heads, tied": (
        "Llama",
        {**ATTENTION, "attention_bias": True, "mlp_bias": True, "head_dim": 16,
         "tie_word_embeddings": True},
    ),
    "mistral": ("Mistral", {**ATTENTION, "sliding_window": 7}),
    "mistral, no window": ("Mistral", {**ATTENTION, "sliding_window": None}),
    "qwen2": (
        "Qwen2",
        {**ATTENTION, "tie_word_embeddings": True,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "qwen3": ("Qwen3", {**ATTENTION, "head_dim": 24, "rms_norm_eps": 1e-3}),
    "mamba": ("Mamba", {"state_size": 8}),
    "mamba2": ("Mamba2", {**SSD, "time_step_limit": (0.01, 0.5)}),
    "mamba2, no limit, no bias": ("Mamba2", {**SSD, "use_conv_bias": False}),
}  # fmt: skip
FAMILIES = pytest.mark.parametrize("case", CASES)
TOKENS = np.random.default_rng(0).integers(0, V, (2, 33))
LONGEST = 128


def made(case, folder, **saving):
    """A random model of transformers, saved."""
    name, options = CASES[case]
    if name not in ("Mamba", "Mamba2"):
        options = {**options, "max_position_embeddings": LONGEST}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**COMMON, **options)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if dtype := saving.pop("dtype", None):
        model = model.to(dtype)
    model.save_pretrained(folder, **saving)
    return model


@pytest.fixture
def bmojo():
    def run(*arguments):
        return CliRunner().invoke(app, list(arguments))

    return run


def imported(bmojo, folder, run, *overrides):
    result = bmojo("checkpoint", "import", str(folder), *overrides, "--to", str(run))
    assert result.exit_code == 0, result.output
    return result


def exported(bmojo, run, folder, *options):
    options = ("--to", str(folder), "--format", "huggingface", *options)
    result = bmojo("checkpoint", "export", str(run), *options)
    assert result.exit_code == 0, result.output


def weights_of(folder):
    """Tensors of a folder by name, as bits."""
    from safetensors.torch import load_file

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    bits = {4: torch.int32, 2: torch.int16}
    return {n: x.contiguous().view(bits[x.element_size()]).numpy() for n, x in found.items()}


@FAMILIES
@pytest.mark.one_in(3)
def test_there_and_back(case, bmojo, tmp_path):
    theirs = made(case, tmp_path / "a")
    imported(bmojo, tmp_path / "a", tmp_path / "run")
    loaded = load(tmp_path / "run")
    with torch.no_grad():
        wanted = theirs(torch.tensor(TOKENS)).logits.numpy()
    found = np.asarray(loaded.model(jnp.asarray(TOKENS))[0])
    difference = np.abs(found - wanted).max()
    print(f"{case}: largest difference {difference:.1e} at {np.abs(wanted).max():.1f}")
    assert np.std(wanted) > 0.1 and difference < 1e-4

    greedy = loaded.generate(TOKENS[0], max_new_tokens=64, temperature=0)
    prompt = torch.tensor(TOKENS[:1])
    options = {"max_new_tokens": 64, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(prompt)  # token 0 is not padding
    if "time_step_limit" in CASES[case][1]:  # its cached form on a CPU knows of no limits
        options["use_cache"] = False
    tokens = theirs.generate(prompt, **options)[0, TOKENS.shape[1] :]
    assert len(greedy) == 64 and greedy.tolist() == tokens.tolist()

    exported(bmojo, tmp_path / "run", tmp_path / "b")
    before, after = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert type(again) is type(theirs)
    with torch.no_grad():
        assert np.abs(again(torch.tensor(TOKENS)).logits.numpy() - wanted).max() < 1e-5


@pytest.mark.parametrize("case", ["qwen3", "mamba2"])
def test_shards_of_bfloat16(case, bmojo, tmp_path):
    made(case, tmp_path / "a", dtype=torch.bfloat16, max_shard_size="20KB")
    shards = len(list((tmp_path / "a").glob("model-*.safetensors")))
    assert shards > 1
    imported(bmojo, tmp_path / "a", tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.experiment.model.dtype == run.experiment.model.param_dtype == "bfloat16"
    assert {str(x.dtype) for x in run.parameters.values()} == {"bfloat16"}
    exported(bmojo, tmp_path / "run", tmp_path / "b", "--shard-size", "2e-5")
    before, after = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == before.keys()
    assert len(set(index["weight_map"].values())) > 1
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert loaded.dtype == torch.bfloat16


def edit(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
REFUSED = {
    "rope scaling": ("llama", {"rope_parameters": YARN}, "rope_parameters: 'yarn'"),
    "old rope scaling": ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling: 'linear'"),
    "partial": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5"),
    "window": ("qwen2", {"use_sliding_window": True}, "use_sliding_window: True"),
    "windows": ("qwen3", {"layer_types": ["sliding_attention"] * 2}, "layer_types: sliding"),
    "dropout": ("llama", {"attention_dropout": 0.1}, "attention_dropout: 0.1 is not supported"),
    "activation": ("mistral", {"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
    "quantized": ("llama", {"quantization_config": {}}, "quantization_config"),
    "groups": ("mamba2", {"n_groups": 2}, "n_groups: 2 is not supported"),
    "biases": ("mamba", {"use_bias": True}, "use_bias: True is not supported"),
    "odd": ("mamba", {"num_hidden_layers": 1}, "num_hidden_layers: 1 is odd"),
    "unknown": ("llama", {"model_type": "gpt2"}, "model_type: 'gpt2' is unknown; import one of"),
    "absent": ("llama", {"hidden_size": "absent"}, "hidden_size: is missing"),
    "extra": ("qwen2", {"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight has no"),
    "missing": ("llama", {"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight is mis"),
    "shape": ("llama", {"intermediate_size": 50}, r"\[48, 32\], config.json makes it \[50, 32\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, bmojo, tmp_path):
    case, changes, words = REFUSED[name]
    made(case, tmp_path / "a")
    edit(tmp_path / "a", **changes)
    result = bmojo("checkpoint", "import", str(tmp_path / "a"), "--to", str(tmp_path / "run"))
    assert result.exit_code == 2 and not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=words):
        Folder(tmp_path / "a")
    assert result.output.count("\n") == 1


def test_files_that_are_not_read(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Folder(tmp_path / "a")
    made("llama", tmp_path / "a")
    weights = tmp_path / "a" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(UserError, match="model.safetensors: no whole safetensors file"):
        Folder(tmp_path / "a")
    header = content.replace(b'"F32"', b'"F64"', 1)
    weights.write_bytes(header)
    with pytest.raises(UserError, match="F64 is not supported; convert it to one of F32"):
        Folder(tmp_path / "a")
    weights.unlink()
    (tmp_path / "a" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle.*save_pretrained"):
        Folder(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "model-00001-of-00002.safetensors"}})
    )
    with pytest.raises(UserError, match="model-00001-of-00002.safetensors: is missing"):
        Folder(tmp_path / "a")


def tokenizer_file(folder):
    """A byte-level tokenizer of V tokens' model with text to encode."""
    from bmojo.data.text.tokenizers import train_tokenizer

    (folder / "tokenizer.json").write_bytes(train_tokenizer(iter(["some text, some words"]), 270))


def test_a_tokenizer_goes_through_and_the_run_trains_on(bmojo, tmp_path, monkeypatch):
    monkeypatch.setenv("BMOJO_CACHE_DIR", str(tmp_path / "cache"))
    text = tmp_path / "text"
    text.mkdir()
    for number in range(40):
        (text / f"{number}.txt").write_text("some text, some words\n" * 20)
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        **{**COMMON, "vocab_size": 300, **ATTENTION}, max_position_embeddings=32
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "a")
    tokenizer_file(tmp_path / "a")
    edit(tmp_path / "a", eos_token_id=0)
    (tmp_path / "a" / "generation_config.json").write_text(
        '{"temperature": 0.5, "do_sample": true}'
    )
    overrides = [f"Text.path={str(text)!r}", "Stage.steps=2", "Trainer.plots=False"]
    overrides += ["Text.length=16", "Evaluation.batches=1", "Evaluation.batch_size=1"]
    imported(bmojo, tmp_path / "a", run := tmp_path / "run", *overrides)
    result = bmojo("generate", str(run), "--prompt", "some", "--max-new-tokens", "4")
    assert result.exit_code == 0, result.output
    result = bmojo("inspect", str(run))
    assert result.exit_code == 0 and "MLP (2)" in result.output
    result = bmojo("eval", str(run))
    assert result.exit_code == 0, result.output
    before = open_run(run).parameters
    result = bmojo("train", str(run / "config.gin"))
    assert result.exit_code == 0, result.output
    after = open_run(run)
    assert after.step == 2
    moved = {n: np.abs(np.asarray(x) - after.parameters[n]).max() for n, x in before.items()}
    assert 0 < max(moved.values()) < 1e-3  # two steps of the learning rate, from these weights

    exported(bmojo, run, tmp_path / "b")
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert names >= {"README.md", "config.json", "generation_config.json", "tokenizer.json"}
    assert (tmp_path / "b" / "tokenizer.json").read_bytes() == (
        tmp_path / "a" / "tokenizer.json"
    ).read_bytes()
    assert json.loads((tmp_path / "b" / "generation_config.json").read_text())["temperature"] == 0.5
    assert json.loads((tmp_path / "b" / "config.json").read_text())["eos_token_id"] == 0
    assert "Qwen2ForCausalLM" in (tmp_path / "b" / "README.md").read_text()


GIGABYTE = """
import json, pathlib, sys
import numpy as np
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
d, ff, layers, vocab = 2048, 5632, 4, 12000
config = dict(model_type="llama", vocab_size=vocab, hidden_size=d, intermediate_size=ff,
              num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=16,
              tie_word_embeddings=False)
(folder / "config.json").write_text(json.dumps(config))
shapes = {"model.embed_tokens.weight": (vocab, d), "lm_head.weight": (vocab, d),
          "model.norm.weight": (d,)}
for i in range(layers):
    at = f"model.layers.{i}."
    for n in "qkvo":
        shapes[at + f"self_attn.{n}_proj.weight"] = (d, d)
    shapes |= {at + "mlp.gate_proj.weight": (ff, d), at + "mlp.up_proj.weight": (ff, d),
               at + "mlp.down_proj.weight": (d, ff), at + "input_layernorm.weight": (d,),
               at + "post_attention_layernorm.weight": (d,)}
header, place = {}, 0
for name, shape in shapes.items():
    size = 4 * int(np.prod(shape))
    header[name] = dict(dtype="F32", shape=shape, data_offsets=[place, place + size])
    place += size
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
rng = np.random.default_rng(0)
with open(folder / "model.safetensors", "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for _ in range(place // 2**22):
        file.write(rng.standard_normal(2**20, dtype=np.float32).tobytes())
    file.write(bytes(place % 2**22))
print(place)
"""
IMPORT = """
import pathlib, resource, sys
from bmojo.import_huggingface import import_run
run = pathlib.Path(sys.argv[2])
run.mkdir()
import_run(pathlib.Path(sys.argv[1]), run, run)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_a_gigabyte_is_imported_within_its_size_and_half_a_gigabyte(tmp_path):
    def run(program, *arguments):
        words = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    size = run(GIGABYTE, tmp_path / "a")
    assert size > 10**9
    peak = run(IMPORT, tmp_path / "a", tmp_path / "run")
    print(f"{size / 1e9:.2f} GB of parameters, {peak / 1e9:.2f} GB at most")
    assert peak < size + 0.5e9
