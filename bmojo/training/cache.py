"""The cache of compiled programs, shared by all runs of a user."""

from pathlib import Path

import jax

from bmojo.cache import cache_directory


def use_compilation_cache() -> Path | None:
    """Keep and reuse compiled programs; None if the directory cannot be written."""
    directory = cache_directory() / "jax"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory
