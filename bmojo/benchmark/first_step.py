"""A process that makes one training step and reports the time of each part.

    python -m bmojo.benchmark.first_step <<< '{"model": "bmojo", "length": 512, "dimensions": {}}'

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
    from bmojo.benchmark.models import Dimensions, choose
    from bmojo.benchmark.steps import Training
    from bmojo.cache import use_compilation_cache
    from bmojo.malloc import keep_freed_memory
    from bmojo.ops.native import library

    keep_freed_memory()
    times = [BEGAN, time.perf_counter()]
    library.unfit()
    times.append(time.perf_counter())
    use_compilation_cache()
    (chosen,) = choose([options["model"]], Dimensions(**options["dimensions"]))
    training = Training(chosen, options.get("batch", 1), options["length"])
    times.append(time.perf_counter())
    training.program  # noqa: B018 (compiles it)
    times.append(time.perf_counter())
    training.step()
    times.append(time.perf_counter())
    names = ("import", "kernels", "make", "compile", "step")
    seconds = {name: times[i + 1] - times[i] for i, name in enumerate(names)}
    return {**seconds, "loss": training.loss}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.stdin.readline()))), flush=True)
