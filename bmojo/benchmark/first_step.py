"""A process that makes one training step and says how long each part took.

    python -m bmojo.benchmark.first_step '{"model": "bmojo", "length": 512, "dimensions": {}}'

Prints a line of JSON when the step is done: seconds to import, to compile the kernels for this
CPU or to load them, to make the model, to trace and compile or to fetch the compiled step, and to
run it; and its loss.
"""

import json
import sys
import time

BEGAN = time.perf_counter()


def main(options: dict) -> dict:
    """Make a model and one step; the cache of compiled programs is used as in training."""
    import jax
    import numpy as np

    from bmojo.benchmark.models import Dimensions, choose, draw
    from bmojo.cache import use_compilation_cache
    from bmojo.malloc import keep_freed_memory
    from bmojo.ops.native import library
    from bmojo.training.config import OptimizerConfig
    from bmojo.training.optimizer import make_optimizer
    from bmojo.training.train_step import make_train_step

    keep_freed_memory()
    times = [time.perf_counter()]
    library.unfit()
    times.append(time.perf_counter())
    use_compilation_cache()
    (chosen,) = choose([options["model"]], Dimensions(**options["dimensions"]))
    structure, parameters = draw(chosen)
    optimizer = make_optimizer(OptimizerConfig(), 1000, structure.groups)
    state = jax.jit(optimizer.init)(parameters)
    jax.block_until_ready(state)
    times.append(time.perf_counter())
    shape = (options.get("batch", 1), options["length"] + 1)
    tokens = np.random.default_rng(0).integers(0, chosen.config.vocab_size, shape, np.int32)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    step = make_train_step(structure, optimizer).lower(parameters, state, None, batch).compile()
    times.append(time.perf_counter())
    *_, metrics = step(parameters, state, None, batch)
    loss = float(jax.block_until_ready(metrics)["loss"])
    times.append(time.perf_counter())
    names = ("import", "kernels", "make", "compile", "step")
    parts = [late - early for early, late in zip([BEGAN, *times], times, strict=False)]
    return {**dict(zip(names, parts, strict=True)), "loss": loss}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))), flush=True)
