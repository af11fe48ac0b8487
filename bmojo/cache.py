"""The cache of compiled programs, shared by all runs of a user."""

import os
from pathlib import Path

from bmojo.errors import UserError


def cache_directory() -> Path:
    """The folder of compiled programs: BMOJO_CACHE_DIR, or ``~/.cache/bmojo``.

    Raises:
      UserError: the first is not set, and the user has no home directory.
    """
    given = os.environ.get("BMOJO_CACHE_DIR")
    try:
        return Path(given or "~/.cache/bmojo").expanduser().absolute()
    except RuntimeError:
        raise UserError(
            "BMOJO_CACHE_DIR: there is no home directory to keep compiled programs in; name a "
            "folder for them"
        ) from None


def use_compilation_cache() -> Path | None:
    """Let JAX keep and reuse compiled programs; None if the folder cannot be written."""
    import jax  # slow to start

    directory = cache_directory() / "jax"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory
