"""Run at the start of every notebook: ``%%bash`` shows what a shell printed when it is done.

IPython's own shows pieces as they come, and between two of them a page would break the line.
Paths below the notebook's temporary folder are shown relative to it.
"""

import os
import subprocess

from IPython import get_ipython


def bash(line: str, cell: str) -> None:
    """Run a cell in bash; it must succeed, but with ``--no-raise-error``."""
    done = subprocess.run(
        ["bash", "-c", cell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    text = done.stdout.replace(os.getcwd() + os.sep, "")
    print(text.replace(os.environ["BMOJO_CACHE_DIR"], "~/.cache/bmojo"), end="")
    if done.returncode and "--no-raise-error" not in line:
        raise RuntimeError(f"bash ended with {done.returncode}")


get_ipython().register_magic_function(bash, "cell", "bash")
