"""The models of ``torch_worker.py``, all of Hugging Face transformers."""

NAMES = ("mamba2", "mistral", "zamba2", "falcon_h1")


def settings(asked, inner):
    """Arguments of a model's config; ``inner`` is the free width of MLPs."""
    width, layers, heads = asked["width"], asked["layers"], asked["heads"]
    common = {"vocab_size": asked["vocabulary"], "hidden_size": width, "use_cache": False}
    common |= {"tie_word_embeddings": True, "pad_token_id": None}
    attention = {"num_attention_heads": heads, "num_key_value_heads": heads}
    attention |= {"max_position_embeddings": max(asked["length"], 64)}
    own = {
        # Two layers for one: a layer of Mamba-2 has no MLP beside it. No width of it is free.
        "mamba2": {"num_hidden_layers": 2 * layers, "num_heads": heads}
        | {"head_dim": 2 * width // heads, "state_size": 64, "expand": 2, "n_groups": 1},
        "mistral": {"intermediate_size": inner, "sliding_window": asked["window"]},
        # In turns a layer of Mamba-2, and one with the shared attention and MLP before it.
        "zamba2": {"layers_block_type": [("mamba", "hybrid")[i % 2] for i in range(layers)]}
        | {"intermediate_size": inner, "n_mamba_heads": heads, "use_mem_rope": True},
        # Mamba-2 and attention side by side, then an MLP.
        "falcon_h1": {"intermediate_size": inner, "mamba_d_ssm": width, "mamba_n_heads": heads}
        | {"mamba_d_head": width // heads, "mamba_d_state": 64},
    }[asked["model"]]
    if asked["model"] == "mamba2":
        return common | own
    return common | attention | {"num_hidden_layers": layers} | own
