"""Environments of the programs that `bmojo bench peers` compares with, one for each library.

    python scripts/peers/install.py [torch] [mamba2_jax] [recurrentgemma] [--to DIR]

Makes a virtual environment DIR/NAME from the pinned requirements in NAME.txt beside this file, and
copies the programs that run in it there. Without a name: all of them. One that is there already is
brought up to date.
DIR is where `bmojo bench peers` looks by itself: `peers` in BMOJO_CACHE_DIR, or in
`~/.cache/bmojo`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = ("serve.py", "jax_models.py", "jax_worker.py", "torch_models.py", "torch_worker.py")
NAMES = sorted(path.stem for path in HERE.glob("*.txt"))


def default_directory() -> Path:
    given = os.environ.get("BMOJO_CACHE_DIR")
    return (Path(given).expanduser() if given else Path.home() / ".cache" / "bmojo") / "peers"


def install(name: str, directory: Path) -> None:
    """Make one environment."""
    place = directory.absolute() / name
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
    command = [python, "-m", "pip", "install", "--quiet", "--requirement", HERE / f"{name}.txt"]
    subprocess.run(command, check=True)
    for program in PROGRAMS:
        shutil.copy(HERE / program, place)
    print(f"{name}: {python}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--to", type=Path, default=default_directory(), metavar="DIR")
    arguments = parser.parse_args()
    for name in arguments.names or NAMES:
        if name not in NAMES:
            parser.error(f"{name}: no such environment; choose of {', '.join(NAMES)}")
        try:
            install(name, arguments.to)
        except subprocess.CalledProcessError as error:
            print(f"{name}: pip failed with exit code {error.returncode}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
