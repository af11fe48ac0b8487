"""Where things that are made once are kept, for all runs of a user."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Where compiled programs are kept: BMOJO_CACHE_DIR, or ``~/.cache/bmojo``."""
    given = os.environ.get("BMOJO_CACHE_DIR")
    return Path(given).expanduser().absolute() if given else Path.home() / ".cache" / "bmojo"
