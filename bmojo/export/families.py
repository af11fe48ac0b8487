"""Families of models of Hugging Face's transformers: names of their tensors, and their configs.

A family is a table of names and two functions, from its ``config.json`` to a model's config and
back. A new one is such a table and such functions, and an entry in :data:`FAMILIES`.

What differs from here: a ``kernel`` (in, out) is a ``weight`` (out, in) there, taps of a
convolution run from the oldest token to the present one, gate and up of an MLP are two matrices,
and each layer has its own tensors, where here one array holds a parameter of all blocks.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bmojo.errors import UserError
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.model import ModelConfig, solve_widths

__all__ = ["FAMILIES", "Family", "config_json", "family_of", "model_config"]

Names = Mapping[str, str | tuple[str, ...]]
Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
      architecture: name of its class.
      outer: names of the tensors outside the layers, ours -> theirs.
      layer: beginning of the names in a layer, with ``{}`` for its number.
      inner: names in a layer: ours behind ``blocks.sublayers.``, with the number of the sublayer
        within the layer; two of theirs are halves of one of ours, side by side. Those that a
        model does not have are not in its files either.
      sublayers: of ours in one of their layers.
      defaults: values of entries that ``config.json`` may lack.
      fixed: values that entries must have, where a model here has no choice.
      read: the config of a model from ``config.json``.
      write: entries of ``config.json`` from the config of a model and widths of its MLP.
      unread: ends of names in files that mean nothing.
    """

    architecture: str
    outer: Names
    layer: str
    inner: Names
    sublayers: int
    defaults: Config
    fixed: Mapping[str, tuple[Any, ...]]
    read: Callable[[Config], ModelConfig]
    write: Callable[[ModelConfig, int], dict[str, Any]]
    unread: tuple[str, ...] = ()


# Names of tensors

TRANSFORMER_OUTER: Names = {
    "embedding.embedding": "model.embed_tokens.weight",
    "norm.scale": "model.norm.weight",
    "head.kernel": "lm_head.weight",
}
TRANSFORMER: Names = {
    "0.norm.scale": "input_layernorm.weight",
    "0.mixer.heads.q_proj.kernel": "self_attn.q_proj.weight",
    "0.mixer.heads.q_proj.bias": "self_attn.q_proj.bias",
    "0.mixer.heads.q_norm.scale": "self_attn.q_norm.weight",
    "0.mixer.heads.k_proj.kernel": "self_attn.k_proj.weight",
    "0.mixer.heads.k_proj.bias": "self_attn.k_proj.bias",
    "0.mixer.heads.k_norm.scale": "self_attn.k_norm.weight",
    "0.mixer.heads.v_proj.kernel": "self_attn.v_proj.weight",
    "0.mixer.heads.v_proj.bias": "self_attn.v_proj.bias",
    "0.mixer.heads.o_proj.kernel": "self_attn.o_proj.weight",
    "0.mixer.heads.o_proj.bias": "self_attn.o_proj.bias",
    "1.norm.scale": "post_attention_layernorm.weight",
    "1.mixer.up_proj.kernel": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "1.mixer.up_proj.bias": ("mlp.gate_proj.bias", "mlp.up_proj.bias"),
    "1.mixer.down_proj.kernel": "mlp.down_proj.weight",
    "1.mixer.down_proj.bias": "mlp.down_proj.bias",
}
MAMBA_OUTER: Names = {
    "embedding.embedding": "backbone.embeddings.weight",
    "norm.scale": "backbone.norm_f.weight",
    "head.kernel": "lm_head.weight",
}
MAMBA: Names = {
    "0.norm.scale": "norm.weight",
    "0.mixer.in_proj.kernel": "mixer.in_proj.weight",
    "0.mixer.conv.kernel": "mixer.conv1d.weight",
    "0.mixer.conv.bias": "mixer.conv1d.bias",
    "0.mixer.x_proj.kernel": "mixer.x_proj.weight",
    "0.mixer.dt_proj.kernel": "mixer.dt_proj.weight",
    "0.mixer.dt_bias": "mixer.dt_proj.bias",
    "0.mixer.A_log": "mixer.A_log",
    "0.mixer.D": "mixer.D",
    "0.mixer.out_proj.kernel": "mixer.out_proj.weight",
}
MAMBA2: Names = {
    "0.norm.scale": "norm.weight",
    "0.mixer.in_proj.kernel": "mixer.in_proj.weight",
    "0.mixer.conv.kernel": "mixer.conv1d.weight",
    "0.mixer.conv.bias": "mixer.conv1d.bias",
    "0.mixer.dt_bias": "mixer.dt_bias",
    "0.mixer.A_log": "mixer.A_log",
    "0.mixer.D": "mixer.D",
    "0.mixer.norm.scale": "mixer.norm.weight",
    "0.mixer.out_proj.kernel": "mixer.out_proj.weight",
}


# Configs of Transformers

TRANSFORMER_DEFAULTS: Config = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
TRANSFORMER_FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_dropout": (0, None),
    "partial_rotary_factor": (1,),
    "quantization_config": (None,),
    "use_sliding_window": (False,),
}


def _rope_theta(config: Config) -> float:
    """The base of the rotation; of ``rope_parameters``, or of older files' ``rope_theta``."""
    parameters: dict[str, Any] = config.get("rope_parameters") or {}
    for name in ("rope_parameters", "rope_scaling"):
        given = config.get(name) or {}
        kind = given.get("rope_type", given.get("type", "default"))
        if kind != "default" or any(isinstance(value, dict) for value in given.values()):
            raise UserError(
                f"{name}: {kind!r}: rope scaling is not supported; import a model without it"
            )
        if given.get("partial_rotary_factor", 1) != 1:
            raise UserError(
                f"{name}: partial_rotary_factor {given['partial_rotary_factor']} is not "
                "supported; import a model without it"
            )
    theta: Any = parameters.get("rope_theta", config["rope_theta"])
    return float(theta)


def _transformer(
    config: Config, mlp_bias: bool = False, window: int | None = None, **attention: Any
) -> ModelConfig:
    """A Transformer of the entries that all these families have."""
    width, n_heads = config["hidden_size"], config["num_attention_heads"]
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        raise UserError(
            f"layer_types: {', '.join(sorted(kinds))} is not supported; import a model whose "
            "layers all have full attention"
        )
    d_head = config["head_dim"]
    mixer = AttentionConfig(
        n_heads=n_heads,
        n_kv_heads=config["num_key_value_heads"],
        window=window,
        rope=True,
        rope_theta=_rope_theta(config),
        d_head=None if d_head is None or d_head * n_heads == width else d_head,
        norm_epsilon=config["rms_norm_eps"] if attention.get("qk_norm") else 1e-6,
        **attention,
    )
    return ModelConfig(
        vocab_size=config["vocab_size"],
        d_model=width,
        n_layers=config["num_hidden_layers"],
        pattern=(mixer, MLPConfig(config["intermediate_size"], mlp_bias)),
        norm_epsilon=config["rms_norm_eps"],
        **_head(config),
    )


def _head(config: Config) -> dict[str, Any]:
    """Embedding and head: a tied one is not scaled there."""
    tied = config["tie_word_embeddings"]
    return {"tie_embeddings": tied, "logit_scale": 1.0 if tied else None}


def _read_llama(config: Config) -> ModelConfig:
    bias = config["attention_bias"]
    return _transformer(config, config["mlp_bias"], qkv_bias=bias, o_bias=bias)


def _read_qwen3(config: Config) -> ModelConfig:
    bias = config["attention_bias"]
    return _transformer(config, qkv_bias=bias, o_bias=bias, qk_norm=True)


def _transformer_json(config: ModelConfig, d_ff: int) -> dict[str, Any]:
    """Entries that all these families have."""
    attention = config.pattern[0]
    assert isinstance(attention, AttentionConfig)
    return {
        "hidden_size": config.d_model,
        "intermediate_size": d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_kv_heads or attention.n_heads,
        "head_dim": attention.d_head or config.d_model // attention.n_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": attention.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": attention.rope_theta},
        "attention_dropout": 0.0,
    }


def _write_llama(config: ModelConfig, d_ff: int) -> dict[str, Any]:
    attention, mlp = config.pattern[:2]
    biases = {"attention_bias": attention.qkv_bias, "mlp_bias": mlp.bias}  # type: ignore[attr-defined]
    return _transformer_json(config, d_ff) | biases


def _write_mistral(config: ModelConfig, d_ff: int) -> dict[str, Any]:
    # Mistral's window counts the query's own token, as ours does.
    window = config.pattern[0].window  # type: ignore[attr-defined]
    return _transformer_json(config, d_ff) | {"sliding_window": window}


def _write_qwen2(config: ModelConfig, d_ff: int) -> dict[str, Any]:
    return _transformer_json(config, d_ff) | {"use_sliding_window": False}


def _write_qwen3(config: ModelConfig, d_ff: int) -> dict[str, Any]:
    bias = config.pattern[0].qkv_bias  # type: ignore[attr-defined]
    return _write_qwen2(config, d_ff) | {"attention_bias": bias}


# Configs of Mamba and Mamba-2

UNLIMITED = 1e30
"""A step size that is never reached; configs here have no infinity."""

MAMBA_FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "use_bias": (False,),
    "quantization_config": (None,),
    "rms_norm": (True,),
    "norm_before_gate": (False,),
}


def _recurrent(config: Config, mixer: Any) -> ModelConfig:
    layers = config["num_hidden_layers"]
    if layers % 2:
        raise UserError(
            f"num_hidden_layers: {layers} is odd, and layers are counted in pairs here; import a "
            "model with an even number"
        )
    return ModelConfig(
        vocab_size=config["vocab_size"],
        d_model=config["hidden_size"],
        n_layers=layers // 2,
        pattern=(mixer, mixer),
        norm_epsilon=config["layer_norm_epsilon"],
        **_head(config),
    )


def _read_mamba(config: Config) -> ModelConfig:
    rank = config["time_step_rank"]
    mixer = SelectiveSSMConfig(
        d_state=config["state_size"],
        d_conv=config["conv_kernel"],
        dt_rank=None if rank == "auto" else rank,
        d_inner=config.get("intermediate_size", int(config["expand"] * config["hidden_size"])),
        conv_bias=config["use_conv_bias"],
    )
    return _recurrent(config, mixer)


def _read_mamba2(config: Config) -> ModelConfig:
    low, high = map(_number, config["time_step_limit"])
    mixer = SSDConfig(
        d_state=config["state_size"],
        d_conv=config["conv_kernel"],
        n_heads=config["num_heads"],
        d_inner=config["num_heads"] * config["head_dim"],
        norm_epsilon=config["layer_norm_epsilon"],
        conv_bias=config["use_conv_bias"],
        dt_limit=None if (low, high) == (0, math.inf) else (low, min(high, UNLIMITED)),
    )
    return _recurrent(config, mixer)


def _number(value: Any) -> float:
    """A number, which transformers writes in a dict if it is infinite."""
    return float(value["__float__"] if isinstance(value, dict) else value)


def _recurrent_json(config: ModelConfig) -> dict[str, Any]:
    mixer: Any = config.pattern[0]
    d_inner = mixer.d_inner or mixer.expand * config.d_model
    if d_inner % config.d_model:
        raise _refusal(f"an inner width of {d_inner}, no multiple of d_model = {config.d_model}")
    return {
        "hidden_size": config.d_model,
        "num_hidden_layers": 2 * config.n_layers,
        "state_size": mixer.d_state,
        "conv_kernel": mixer.d_conv,
        "expand": d_inner // config.d_model,
        "hidden_act": "silu",
        "layer_norm_epsilon": config.norm_epsilon,
        "use_bias": False,
        "use_conv_bias": mixer.conv_bias,
        "residual_in_fp32": False,
    }


def _write_mamba(config: ModelConfig, d_ff: int) -> dict[str, Any]:
    mixer, common = config.pattern[0], _recurrent_json(config)
    assert isinstance(mixer, SelectiveSSMConfig)
    rank = mixer.dt_rank or math.ceil(config.d_model / 16)
    width = common["expand"] * config.d_model
    return common | {"time_step_rank": rank, "intermediate_size": width}


def _write_mamba2(config: ModelConfig, d_ff: int) -> dict[str, Any]:
    mixer, common = config.pattern[0], _recurrent_json(config)
    assert isinstance(mixer, SSDConfig)
    if mixer.norm_epsilon != config.norm_epsilon:
        raise _refusal(
            f"SSD.norm_epsilon = {mixer.norm_epsilon} beside Model.norm_epsilon = "
            f"{config.norm_epsilon}"
        )
    low, high = mixer.dt_limit or (0.0, math.inf)
    return common | {
        "num_heads": mixer.n_heads,
        "head_dim": common["expand"] * config.d_model // mixer.n_heads,
        "n_groups": 1,
        "chunk_size": mixer.chunk_size,
        "time_step_limit": [low, high if high < UNLIMITED else math.inf],
    }


MAMBA_DEFAULTS: Config = {
    "layer_norm_epsilon": 1e-5, "conv_kernel": 4, "expand": 2, "state_size": 16,
    "time_step_rank": "auto", "use_conv_bias": True, "tie_word_embeddings": True,
}  # fmt: skip
MAMBA2_DEFAULTS: Config = {
    "layer_norm_epsilon": 1e-5, "conv_kernel": 4, "num_heads": 128, "head_dim": 64,
    "state_size": 128, "n_groups": 8, "time_step_limit": (0.0, math.inf), "use_conv_bias": True,
    "tie_word_embeddings": False,
}  # fmt: skip


def _of_transformers(architecture: str, read: Any, write: Any, **defaults: Any) -> Family:
    return Family(
        architecture,
        TRANSFORMER_OUTER,
        "model.layers.{}.",
        TRANSFORMER,
        2,
        {**TRANSFORMER_DEFAULTS, **defaults},
        TRANSFORMER_FIXED,
        read,
        write,
        ("rotary_emb.inv_freq",),
    )


def _of_mamba(architecture: str, inner: Names, defaults: Config, read: Any, write: Any) -> Family:
    fixed = dict(MAMBA_FIXED) | ({"n_groups": (1,)} if "n_groups" in defaults else {})
    layer = "backbone.layers.{}."
    return Family(architecture, MAMBA_OUTER, layer, inner, 1, defaults, fixed, read, write)


FAMILIES: dict[str, Family] = {
    "llama": _of_transformers(
        "LlamaForCausalLM", _read_llama, _write_llama, attention_bias=False, mlp_bias=False
    ),
    "mistral": _of_transformers(
        "MistralForCausalLM",
        lambda config: _transformer(config, window=config["sliding_window"]),
        _write_mistral,
        num_key_value_heads=8,
        sliding_window=4096,
    ),
    "qwen2": _of_transformers(
        "Qwen2ForCausalLM", lambda config: _transformer(config, qkv_bias=True), _write_qwen2
    ),
    "qwen3": _of_transformers(
        "Qwen3ForCausalLM", _read_qwen3, _write_qwen3, attention_bias=False, head_dim=128
    ),
    "mamba": _of_mamba("MambaForCausalLM", MAMBA, MAMBA_DEFAULTS, _read_mamba, _write_mamba),
    "mamba2": _of_mamba("Mamba2ForCausalLM", MAMBA2, MAMBA2_DEFAULTS, _read_mamba2, _write_mamba2),
}
"""By ``model_type``."""


def model_config(found: Config) -> tuple[str, ModelConfig]:
    """The family and the model of what a ``config.json`` holds.

    Raises:
      UserError: the family is unknown, an entry is missing, or has a value without counterpart.
    """
    kind = found.get("model_type")
    if kind not in FAMILIES:
        raise UserError(
            f"model_type: {kind!r} is unknown; import one of {', '.join(sorted(FAMILIES))}"
        )
    family = FAMILIES[kind]
    config = {**family.defaults, **found}
    for name, allowed in family.fixed.items():
        if name in config and config[name] not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise UserError(
                f"{name}: {config[name]!r} is not supported; import a model with {wanted}"
            )
    try:
        return kind, family.read(config)
    except KeyError as error:
        raise UserError(f"{error.args[0]}: is missing; give a complete config.json") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{error}; import another model") from None


def config_json(
    config: ModelConfig,
    shapes: Mapping[str, Any],
    length: int,
    eos: int | None = None,
    like: str | None = None,
) -> dict[str, Any]:
    """What the ``config.json`` of a model holds.

    Args:
      config: of the model.
      shapes: its parameters by name; arrays or shapes.
      length: of the longest sequence that it was trained on.
      eos: the token that ends documents, if there is one.
      like: the family that it was imported from.

    Raises:
      UserError: no family can express the model; the message names what.
    """
    config = solve_widths(config)
    kind = family_of(config)
    if (like, kind) == ("mistral", "llama") and not _biased(config):
        kind = "mistral"  # one without a window
    family = FAMILIES[kind]
    d_ff = _width(config, shapes) if family.sublayers == 2 else 0
    return {
        "architectures": [family.architecture],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        **family.write(config, d_ff),
        "max_position_embeddings": length,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": eos,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": config.param_dtype,
        "torch_dtype": config.param_dtype,
    }


def _biased(config: ModelConfig) -> bool:
    """Whether there are biases."""
    fields = ("qkv_bias", "o_bias", "bias")
    return any(getattr(mixer, field, False) for mixer in config.pattern for field in fields)


def family_of(config: ModelConfig) -> str:
    """The family that can express a model; UserError, naming what none can."""
    if config.readout is not None and config.readout.reads:
        raise _refusal("a verbatim read-out (Model.readout)")
    for kind, mixer in (("mamba", SelectiveSSMConfig), ("mamba2", SSDConfig)):
        if all(isinstance(m, mixer) for m in config.pattern):
            _check_alike(config.pattern, ())
            return kind
    attention, mlp = _sublayers(config)
    if attention.qk_norm and attention.norm_epsilon != config.norm_epsilon:
        raise _refusal(
            f"Attention.norm_epsilon = {attention.norm_epsilon} beside Model.norm_epsilon = "
            f"{config.norm_epsilon}"
        )
    if attention.window is not None:
        if attention.qk_norm or _biased(config):
            raise _refusal("a window (Attention.window) beside biases or norms of queries and keys")
        return "mistral"
    if attention.o_bias and not attention.qkv_bias:
        raise _refusal("Attention.o_bias without Attention.qkv_bias")
    plain = attention.qkv_bias == attention.o_bias
    if attention.qk_norm or not plain:
        if mlp.bias or (attention.qk_norm and not plain):
            raise _refusal("these biases together (Attention.qkv_bias, Attention.o_bias, MLP.bias)")
        return "qwen3" if attention.qk_norm else "qwen2"
    return "llama"


def _sublayers(config: ModelConfig) -> tuple[AttentionConfig, MLPConfig]:
    """The one kind of attention and of MLP of a Transformer that can be expressed."""
    kinds = (AttentionConfig, MLPConfig)
    for index, mixer in enumerate(config.pattern):
        if not isinstance(mixer, kinds[index % 2]):
            name = type(mixer).__name__.removesuffix("Config")
            raise _refusal(f"{name}, sublayer {index + 1} of its pattern")
    if len(config.pattern) % 2:
        raise _refusal("an attention without an MLP after it")
    attention, mlp = config.pattern[:2]
    assert isinstance(attention, AttentionConfig) and isinstance(mlp, MLPConfig)
    if not attention.rope:
        raise _refusal("attention without rotary positions (Attention.rope=False)")
    _check_alike(config.pattern[::2], ("max_length", "attention_implementation"))
    _check_alike(config.pattern[1::2], ("d_ff",))
    return attention, mlp


def _check_alike(mixers: Sequence[Any], apart: tuple[str, ...]) -> None:
    """Refuse mixers of one kind that differ, but for the fields ``apart``."""
    for other in mixers[1:]:
        for field in dataclasses.fields(other):
            one, two = (getattr(mixer, field.name) for mixer in (mixers[0], other))
            if one != two and field.name not in apart:
                name = type(other).__name__.removesuffix("Config")
                raise _refusal(f"sublayers {name} that differ in {field.name} ({one} and {two})")


def _width(config: ModelConfig, shapes: Mapping[str, Any]) -> int:
    """Hidden width of the MLPs, which is one number there."""
    names = [f"blocks.sublayers.{i}.mixer.down_proj.kernel" for i in range(len(config.pattern))]
    widths = {shapes[name].shape[1] for name in names[1::2]}
    if len(widths) > 1:
        raise _refusal(f"MLPs of the widths {' and '.join(map(str, sorted(widths)))}")
    return widths.pop()


def _refusal(what: str) -> UserError:
    return UserError(
        f"--format huggingface: Hugging Face's families cannot express {what}; "
        "take --format safetensors"
    )
