"""Models of Hugging Face transformers, in PyTorch, for ``serve.py``."""

import importlib.metadata
import time


class Worker:
    """One model and its optimizer."""

    def make(self, asked):
        """Make the model as near to the wanted number of parameters as its widths allow."""
        import torch
        from serve import free_width
        from torch_models import settings
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

        inner = free_width(count, asked["parameters"])
        self.model = model_of(inner)
        self.model.train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        self.vocabulary = asked["vocabulary"]
        self.tokens = torch.randint(0, self.vocabulary, (asked["batch"], asked["length"] + 1))
        self.inputs = self.tokens[:, :-1].contiguous()
        self.targets = self.tokens[:, 1:].contiguous()
        names = ("torch", "transformers")
        return {
            "parameters": inner_parameters(self.model),
            "inner": inner,
            "versions": {name: importlib.metadata.version(name) for name in names},
            "whose": "transformers, PyTorch",
        }

    def logits(self, tokens):
        """Logits of tokens, as NumPy."""
        with self.torch.no_grad():
            tokens = self.torch.from_numpy(tokens)
            return self.model(input_ids=tokens, use_cache=False).logits.numpy()

    def loss(self):
        """Mean cross-entropy of the batch."""
        with self.torch.no_grad():
            return float(self._loss())

    def _loss(self):
        logits = self.model(input_ids=self.inputs, use_cache=False).logits
        flat = logits.reshape(-1, logits.shape[-1]).float()
        return self.torch.nn.functional.cross_entropy(flat, self.targets.reshape(-1))

    def step(self, asked):
        """Forward, backward, clipping, AdamW."""
        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss()
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        value = float(loss.detach())
        return {"seconds": time.perf_counter() - began, "loss": value}


def inner_parameters(model):
    """Parameters outside embedding and head; shared ones count once."""
    outer = (model.get_input_embeddings(), model.get_output_embeddings())
    apart = {id(part.weight) for part in outer}
    return sum(p.numel() for p in model.parameters() if id(p) not in apart)
