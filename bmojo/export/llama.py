"""The Transformer as Hugging Face's Llama, or as Mistral if it has a window.

Both rotate the two halves of a head against each other, both have SwiGLU and RMSNorm before
each sublayer. What differs: a ``kernel`` (in, out) here is a ``weight`` (out, in) there, gate
and up are two matrices there, and a tied head is not divided by sqrt(D) there. The division
goes into the weight of the last norm, so that head and embedding stay one matrix.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bmojo.errors import UserError
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.model import ModelConfig, solve_widths

__all__ = ["huggingface_config", "huggingface_parameters"]

NORM_EPSILON = 1e-6
"""Of ``nnx.RMSNorm``, which the model leaves as it is."""


def huggingface_config(
    config: ModelConfig, parameters: Mapping[str, Any], length: int, eos: int | None = None
) -> dict[str, Any]:
    """What ``config.json`` of a Llama or Mistral holds.

    Args:
      config: of the model.
      parameters: by name; arrays or shapes.
      length: of the longest sequence that it was trained on.
      eos: the token that ends documents, if there is one.

    Raises:
      UserError: the model has what these two cannot express; the message names it.
    """
    config = solve_widths(config)
    attention = _attention(config)
    windowed = attention.window is not None
    found = {
        "architectures": ["MistralForCausalLM" if windowed else "LlamaForCausalLM"],
        "model_type": "mistral" if windowed else "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": _width(config, parameters),
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_kv_heads or attention.n_heads,
        "head_dim": config.d_model // attention.n_heads,
        "hidden_act": "silu",
        "max_position_embeddings": length,
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": attention.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": attention.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": eos,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": config.param_dtype,
        "torch_dtype": config.param_dtype,
    }
    if windowed:  # Mistral's window counts the query's own token, as ours does.
        return found | {"sliding_window": attention.window}
    return found | {"mlp_bias": False, "attention_bias": False}


def huggingface_parameters(
    config: ModelConfig, parameters: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Weights by the names of Llama and Mistral, of a model that :func:`huggingface_config` takes.

    ``parameters`` are named as :func:`bmojo.training.parameters.split` names them.
    """
    config = solve_widths(config)
    arrays = {name: np.asarray(value) for name, value in parameters.items()}
    norm = arrays["norm.scale"]
    if config.tie_embeddings:
        norm = (norm.astype(np.float64) * config.d_model**-0.5).astype(norm.dtype)
    found = {"model.embed_tokens.weight": arrays["embedding.embedding"], "model.norm.weight": norm}
    if not config.tie_embeddings:
        found["lm_head.weight"] = arrays["head.kernel"].T
    pairs = len(config.pattern) // 2
    for layer in range(config.n_layers):
        period, pair = divmod(layer, pairs)
        ours = [f"blocks.sublayers.{2 * pair + half}" for half in (0, 1)]
        gate, up = np.split(arrays[f"{ours[1]}.mixer.up_proj.kernel"][period], 2, axis=-1)
        layers = {
            "input_layernorm": arrays[f"{ours[0]}.norm.scale"][period],
            "post_attention_layernorm": arrays[f"{ours[1]}.norm.scale"][period],
            "mlp.gate_proj": gate.T,
            "mlp.up_proj": up.T,
            "mlp.down_proj": arrays[f"{ours[1]}.mixer.down_proj.kernel"][period].T,
        }
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            layers[f"self_attn.{name}"] = arrays[f"{ours[0]}.mixer.heads.{name}.kernel"][period].T
        found |= {f"model.layers.{layer}.{name}.weight": x for name, x in layers.items()}
    return found


def _attention(config: ModelConfig) -> AttentionConfig:
    """The one kind of attention of a model that can be expressed."""
    if config.readout is not None and config.readout.reads:
        raise _refusal("a verbatim read-out (Model.readout)")
    kinds = (AttentionConfig, MLPConfig)
    for index, mixer in enumerate(config.pattern):
        if not isinstance(mixer, kinds[index % 2]):
            name = type(mixer).__name__.removesuffix("Config")
            raise _refusal(f"{name}, sublayer {index + 1} of its pattern")
    if len(config.pattern) % 2:
        raise _refusal("an attention without an MLP after it")
    attentions = list(dict.fromkeys(config.pattern[::2]))
    first = attentions[0]
    assert isinstance(first, AttentionConfig)
    if not first.rope:
        raise _refusal("attention without rotary positions (Attention.rope=False)")
    for other in attentions[1:]:
        for field in ("n_heads", "n_kv_heads", "window", "rope", "rope_theta"):
            one, two = getattr(first, field), getattr(other, field)
            if one != two:
                raise _refusal(f"attentions that differ in {field} ({one} and {two})")
    return first


def _width(config: ModelConfig, parameters: Mapping[str, Any]) -> int:
    """Hidden width of the MLPs, which is one number there."""
    names = [f"blocks.sublayers.{i}.mixer.down_proj.kernel" for i in range(len(config.pattern))]
    widths = {parameters[name].shape[1] for name in names[1::2]}
    if len(widths) > 1:
        raise _refusal(f"MLPs of the widths {' and '.join(map(str, sorted(widths)))}")
    return widths.pop()


def _refusal(what: str) -> UserError:
    return UserError(
        f"--format huggingface: Llama and Mistral cannot express {what}; take --format safetensors"
    )
