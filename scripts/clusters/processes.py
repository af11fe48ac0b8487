"""Kill one of several processes on this machine, see the others stop, and go on.

    python -m scripts.clusters.processes [--counts 2 4] [--out DIR]

For each number of processes: a run of one process, an undisturbed run of all, and one run for
each process that is killed (SIGKILL) in the middle. Prints how long the others took to stop,
what they said, and whether the run that went on ended with the same bytes of metrics.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import numpy as np

from scripts.clusters.process_runs import killed, straight


def losses(lines: bytes) -> np.ndarray:
    """Of a run's steps."""
    records = map(json.loads, lines.splitlines())
    return np.array([record["loss"] for record in records if "stage" in record])


def main() -> None:
    """Run it all and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="bmojo-processes-"))
    chosen = random.Random(0)
    one = straight(out / "one", 1)
    print(f"1 process: {len(losses(one))} steps", flush=True)
    bad = 0
    for count in args.counts:
        all_of_them = straight(out / f"all-{count}", count)
        apart = np.abs(losses(all_of_them) - losses(one)).max()
        print(f"{count} processes: losses differ by at most {apart:.1e} from one", flush=True)
        for victim in range(count):
            step = chosen.randrange(5, 35)
            run = out / f"killed-{count}-{victim}"
            ended = killed(run, count, victim, step)
            same = straight(run, count) == all_of_them
            bad += not same or ended.seconds > 30
            print(
                f"  process {victim} killed after step {step}: the others ended after "
                f"{ended.seconds:.1f} s with {ended.codes}; resumed, metrics are "
                f"{'the same to the byte' if same else 'DIFFERENT'}\n    {ended.lines[-1]}",
                flush=True,
            )
    print("all as it should be" if not bad else f"{bad} not as they should be")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
