"""Trains models of Hugging Face transformers in PyTorch, a step at a time, on request.

Runs in an environment of its own, by itself. Requests and answers are lines of JSON:
``{"do": "make", "model": ..., ...}``, ``{"do": "check"}``, ``{"do": "step"}``.
"""

import ctypes
import importlib.metadata
import json
import math
import os
import sys
import time
import traceback

NAMES = ("mamba2", "mistral", "zamba2", "falcon_h1")


def keep_pages():
    """Keep memory that was freed, as bmojo does."""
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        library.mallopt(-4, 0)
        library.mallopt(-1, -1)


def settings(asked, inner):
    """Arguments of a model's config; ``inner`` is the free width of MLPs."""
    width, layers, heads = asked["width"], asked["layers"], asked["heads"]
    common = {"vocab_size": asked["vocabulary"], "hidden_size": width, "use_cache": False}
    common |= {"tie_word_embeddings": True, "pad_token_id": None}
    attention = {"num_attention_heads": heads, "num_key_value_heads": heads}
    attention |= {"max_position_embeddings": max(asked["length"], 64)}
    return {
        # Two layers for one: a layer of Mamba-2 has no MLP beside it. No width of it is free.
        "mamba2": common
        | {"num_hidden_layers": 2 * layers, "num_heads": heads, "head_dim": 2 * width // heads}
        | {"state_size": 64, "expand": 2, "n_groups": 1},
        "mistral": common
        | attention
        | {"num_hidden_layers": layers, "intermediate_size": inner}
        | {"sliding_window": asked["window"]},
        # In turns a layer of Mamba-2, and one with the shared attention and MLP before it.
        "zamba2": common
        | attention
        | {"num_hidden_layers": layers}
        | {"layers_block_type": [("mamba", "hybrid")[i % 2] for i in range(layers)]}
        | {"intermediate_size": inner, "n_mamba_heads": heads, "use_mem_rope": True},
        # Mamba-2 and attention side by side, then an MLP.
        "falcon_h1": common
        | attention
        | {"num_hidden_layers": layers, "intermediate_size": inner, "mamba_d_ssm": width}
        | {"mamba_n_heads": heads, "mamba_d_head": width // heads, "mamba_d_state": 64},
    }[asked["model"]]


class Worker:
    """One model and its optimizer."""

    def make(self, asked):
        """Make the model as near to the wanted number of parameters as its widths allow."""
        import torch
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM

        self.torch = torch
        torch.set_num_threads(asked["threads"])
        torch.manual_seed(0)

        def model_of(inner):
            config = CONFIG_MAPPING[asked["model"]](**settings(asked, inner))
            options = {} if asked["model"] == "mamba2" else {"attn_implementation": "sdpa"}
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options)

        def count(inner):
            with torch.device("meta"):
                return inner_parameters(model_of(inner))

        low, high = count(32), count(64)
        inner = None
        if high > low:
            inner = max(1, 32 + round((asked["parameters"] - low) / ((high - low) / 32)))
        self.model = model_of(inner)
        self.model.train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        shape = (asked["batch"], asked["length"] + 1)
        tokens = torch.randint(0, asked["vocabulary"], shape)
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        names = ("torch", "transformers")
        return {
            "parameters": inner_parameters(self.model),
            "inner": inner,
            "versions": {name: importlib.metadata.version(name) for name in names},
            "whose": "transformers, PyTorch",
        }

    def loss(self):
        """Mean cross-entropy of the batch."""
        logits = self.model(input_ids=self.inputs, use_cache=False).logits
        flat = logits.reshape(-1, logits.shape[-1]).float()
        return self.torch.nn.functional.cross_entropy(flat, self.targets.reshape(-1))

    def check(self, asked):
        """The first loss, and how much earlier logits change with later tokens."""
        torch = self.torch
        with torch.no_grad():
            loss = float(self.loss())
            part = self.inputs[:, : min(64, self.inputs.shape[1])]
            half = part.shape[1] // 2
            other = part.clone()
            other[:, half:] = (other[:, half:] + 1) % int(self.model.config.vocab_size)
            one, two = (self.model(input_ids=t, use_cache=False).logits for t in (part, other))
            earlier = (one - two)[:, :half].abs().max()
            later = (one - two)[:, half:].abs().max()
            leak = float(earlier / one.abs().max())
        if float(later) == 0:
            leak = math.nan  # tokens do not matter at all
        return {"loss": loss, "leak": leak}

    def step(self, asked):
        """Forward, backward, clipping, AdamW."""
        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        value = float(loss.detach())
        return {"seconds": time.perf_counter() - began, "loss": value}


def inner_parameters(model):
    """Parameters outside embedding and head; shared ones count once."""
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    apart = {id(embedding), id(head)}
    return sum(p.numel() for p in model.parameters() if id(p) not in apart)


def serve(worker):
    """Answer requests until the input ends. What libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(worker, asked["do"])(asked)
        except Exception as error:
            traceback.print_exc()
            first = (str(error).splitlines() or [""])[0]
            answer = {"error": f"{type(error).__name__}: {first}"}
        for name in ("loss", "leak"):
            if name in answer and not math.isfinite(answer[name]):
                answer[name] = None
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    keep_pages()
    serve(Worker())
