"""Llama's and Mistral's forward pass from an exported folder, in NumPy and float64."""

import json

import numpy as np

from bmojo.export import tensors


def logits(folder, tokens):
    """Logits (L, V) of one sequence of tokens (L,)."""
    config = json.loads((folder / "config.json").read_text())
    weights = {n: x.astype("f8") for n, x in tensors.read(folder / "model.safetensors")[0].items()}
    heads, width = config["num_attention_heads"], config["head_dim"]
    groups = config["num_key_value_heads"]
    window = config.get("sliding_window")
    length = len(tokens)
    place = np.arange(length)
    shown = place[None] <= place[:, None]
    if window is not None:
        shown &= place[None] > place[:, None] - window

    def norm(x, name):
        mean = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean + config["rms_norm_eps"]) * weights[name]

    rate = config["rope_parameters"]["rope_theta"] ** (-np.arange(0, width, 2) / width)
    angle = np.concatenate([place[:, None] * rate] * 2, axis=-1)[:, None]

    def rotated(x):
        other = np.concatenate([-x[..., width // 2 :], x[..., : width // 2]], axis=-1)
        return x * np.cos(angle) + other * np.sin(angle)

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"

        def product(u, name, at=at):
            return u @ weights[f"{at}.{name}.weight"].T

        u = norm(x, f"{at}.input_layernorm.weight")
        q = rotated(product(u, "self_attn.q_proj").reshape(length, heads, width))
        k = rotated(product(u, "self_attn.k_proj").reshape(length, groups, width))
        v = product(u, "self_attn.v_proj").reshape(length, groups, width)
        k, v = (np.repeat(y, heads // groups, axis=1) for y in (k, v))
        scores = np.einsum("qhp,khp->hqk", q, k) / np.sqrt(width)
        scores = np.where(shown, scores, -np.inf)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khp->qhp", shares, v).reshape(length, heads * width)
        x = x + product(mixed, "self_attn.o_proj")
        u = norm(x, f"{at}.post_attention_layernorm.weight")
        gate = product(u, "mlp.gate_proj")
        x = x + product(gate / (1 + np.exp(-gate)) * product(u, "mlp.up_proj"), "mlp.down_proj")
    tied = config["tie_word_embeddings"]
    head = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
    return norm(x, "model.norm.weight") @ head.T
