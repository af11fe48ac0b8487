"""IPython startup file of notebooks: a ``%%bash`` magic that prints the output of a finished shell.

IPython's own magic prints output in pieces, and the page breaks lines between them. Paths below
the notebook's temporary folder are printed relative to it.
"""

import os
import subprocess

from IPython import get_ipython


def bash(line: str, cell: str) -> None:
    """Run a cell in bash; raise if it fails, unless ``--no-raise-error`` is given."""
    done = subprocess.run(
        ["bash", "-c", cell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    text = done.stdout.replace(os.getcwd() + os.sep, "")
    print(text.replace(os.environ["BMOJO_CACHE_DIR"], "~/.cache/bmojo"), end="")
    if done.returncode and "--no-raise-error" not in line:
        raise RuntimeError(f"bash ended with {done.returncode}")


get_ipython().register_magic_function(bash, "cell", "bash")
