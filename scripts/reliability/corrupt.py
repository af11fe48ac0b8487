"""Damage every file of a run's newest checkpoint in every way, and see that nothing is lost.

    python -m scripts.reliability.corrupt [--some] [--skip FILES]

A tiny run with three checkpoints is trained once. Then, for each file of the newest checkpoint
and each kind of damage, a copy of the run goes on: it must name the file, use the checkpoint
before, and end with the same metrics to the byte. ``hashes.json`` itself may be absent: then
the checkpoint is accepted once it could be read, and gets its hashes again. --some: every
fourth case only.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from scripts.reliability.damage import KINDS, case, files, run


def main() -> int:
    """Print a table; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--some", action="store_true", help="every fourth case only")
    parser.add_argument("--skip", type=int, default=0, help="files left out, the first ones")
    chosen = parser.parse_args()
    lost = number = 0
    with tempfile.TemporaryDirectory() as folder:
        straight = Path(folder) / "straight"
        run(straight)
        print(f"| file | {' | '.join(KINDS)} |\n| --- |{' --- |' * len(KINDS)}")
        for row, name in list(enumerate(files(straight)))[chosen.skip :]:
            results = []
            for column, kind in enumerate(KINDS):
                if chosen.some and (row + column) % 4:
                    results.append("")
                    continue
                number += 1
                here = Path(folder) / str(number)
                results.append(case(straight, here, name, kind))
                lost += results[-1] != "ok"
                shutil.rmtree(here)
            print(f"| {name} | {' | '.join(results)} |", flush=True)
    print(f"{number} cases, {lost} of them lost something")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
