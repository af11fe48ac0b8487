"""A training step and decoding of one checkout, for ``compare.py``, served by ``serve.py``.

Imports of bmojo that every checkout has, old or new.
"""

import time
from pathlib import Path


class Worker:
    """A model in training, and in decoding behind a text that it has read."""

    def make(self, asked):
        """Compile and warm up; answers what the two checkouts must have in common."""
        import bmojo
        from bmojo.benchmark import machine
        from bmojo.benchmark.decoding import decode_cases
        from bmojo.benchmark.models import Dimensions, choose
        from bmojo.benchmark.steps import Training

        machine.record()  # from here on, freed memory is kept
        (chosen,) = choose(
            [asked["model"]], Dimensions(width=asked["width"], layers=asked["layers"])
        )
        training = Training(chosen, 1, asked["length"])
        training.step()
        positions, rounds = [asked["position"]], asked["rounds"]
        loop, calls = decode_cases([chosen], positions, asked["tokens"], rounds, None)
        self.runs = {"step": training.step, "decode": loop.run, "decode, a call a token": calls.run}
        path = str(Path(bmojo.__file__).parents[1])
        return {"parameters": chosen.parameters, "loss": training.loss, "path": path}

    def run(self, asked):
        """Run a case once."""
        began = time.perf_counter()
        self.runs[asked["case"]]()
        return {"seconds": time.perf_counter() - began}
