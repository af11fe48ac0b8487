"""The C++ sources of this folder, compiled once by the machine's own compiler.

The compiler is ``$CXX``, or else ``c++``. The library is kept beside XLA's compiled programs, or
in ``$BMOJO_NATIVE_DIR``, under a name made of the sources, the compiler, the processor's
instructions and JAX's version, so that a change of any makes a new one. Beside it is its SHA-256: a
library that is damaged is made anew. A folder that others may write is refused, since whoever
writes there runs code in our name. ``BMOJO_NATIVE=0`` switches the kernels off.
"""

import concurrent.futures
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib

from bmojo.cache import cache_directory
from bmojo.files import atomically, file_lock, sha256, write_atomically

SOURCES = ("scan.cc", "ssd.cc", "attention.cc", "readout.cc", "settle.cc")
HERE = Path(__file__).parent
FLAGS = (
    "-std=c++20",
    "-O3",
    "-march=native",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wno-psabi",
)

logger = logging.getLogger(__name__)


class BuildError(ValueError):
    """The kernels were asked for by name and cannot be compiled here; the text says why."""


@functools.cache
def why_not() -> str | None:
    """Why there are no kernels on this machine; None: there are, and JAX knows them.

    The first call compiles them if no process has done so before, which takes some seconds. A
    compiler that is there and fails is told as a warning.
    """
    if os.environ.get("BMOJO_NATIVE", "1") == "0":
        return "BMOJO_NATIVE=0"
    if platform.system() == "Windows":
        return "the kernels are not for Windows"
    command = shlex.split(os.environ.get("CXX", "c++"))
    if not command or shutil.which(command[0]) is None:
        return f"there is no C++ compiler {' '.join(command)!r} (set CXX)"
    try:
        _register(_built(command))
    except (BuildError, OSError) as error:
        warnings.warn(f"no kernels for this CPU: {error}", stacklevel=2)
        return str(error)
    return None


def unfit() -> str | None:
    """Why the kernels cannot run on JAX's default device; None: they can."""
    if jax.default_backend() != "cpu":
        return f"they are for CPUs, and this is a {jax.default_backend()}"
    return why_not()


def require() -> None:
    """Raise BuildError, with the reason, where there are no kernels."""
    why = unfit()
    if why is not None:
        raise BuildError(f"no native kernels: {why}")


def _built(command: list[str]) -> Path:
    """The library's file, compiled unless it is there."""
    target = _run([*command, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    texts = [path.read_text() for path in sorted(HERE.iterdir()) if path.suffix in (".cc", ".h")]
    parts = [target, jaxlib.__version__, *command, *FLAGS, *SOURCES, *texts]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    given = os.environ.get("BMOJO_NATIVE_DIR")
    folder = Path(given).expanduser().absolute() if given else cache_directory() / "native"
    library = folder / f"kernels-{key}.so"
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    _check_owner(folder, library)
    if _is_whole(library):
        return library
    with file_lock(folder / "lock", wait=True):  # others wait here for the first one
        if not _is_whole(library):
            started = time.monotonic()
            # As a warning, which is seen without further ado: for ten seconds nothing else is.
            logger.warning("compiling kernels for this CPU, once, by %s", " ".join(command))
            _compile(command, library)
            logger.info("compiled %s in %.1f s", library, time.monotonic() - started)
    return library


def _compile(command: list[str], library: Path) -> None:
    """Compile the sources, side by side, and link them."""
    include = ["-I", jax.ffi.include_dir()]
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        objects = [str(Path(folder, f"{name}.o")) for name in SOURCES]
        with concurrent.futures.ThreadPoolExecutor(len(SOURCES)) as pool:
            jobs = [
                pool.submit(_run, [*command, *FLAGS, *include, "-c", str(HERE / name), "-o", to])
                for name, to in zip(SOURCES, objects, strict=True)
            ]
            for job in jobs:
                job.result()
        with atomically(library) as linked:
            _run([*command, "-shared", *objects, "-o", str(linked)])
            linked.chmod(0o755)
        write_atomically(library.with_suffix(".sha256"), sha256(library))


def _is_whole(library: Path) -> bool:
    """Whether the library is there and is what the compiler made."""
    try:
        return library.with_suffix(".sha256").read_text() == sha256(library)
    except (OSError, UnicodeDecodeError):
        return False


def _check_owner(*paths: Path) -> None:
    """Raise BuildError if others than the user and root may write one of the paths."""
    for path in filter(Path.exists, paths):
        found = path.stat()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise BuildError(
                f"{path}: others may write it; take the rights away (chmod go-w), or name a folder "
                "of your own in BMOJO_NATIVE_DIR"
            )


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise BuildError(f"{' '.join(command[:1])} failed: {lines[0].strip()}")
    return done.stdout


_in_use: str | None = None


def in_use() -> str | None:
    """The name of the library that JAX knows in this process; None: no kernels so far."""
    return _in_use


def _register(library: Path) -> None:
    """Tell JAX of every kernel of the library, by the names in its table."""
    global _in_use
    _in_use = library.stem
    loaded = ctypes.CDLL(str(library))
    for name in _names():
        handler = jax.ffi.pycapsule(getattr(loaded, name))
        jax.ffi.register_ffi_target(f"bmojo_{name}", handler, platform="cpu")


def _names() -> list[str]:
    """Handlers that the sources define."""
    marker = "BMOJO_HANDLER("
    lines = [line for name in SOURCES for line in (HERE / name).read_text().splitlines()]
    return [line[len(marker) :].split(",")[0] for line in lines if line.startswith(marker)]


def copy(x: jax.Array) -> jax.Array:
    """``x`` by a kernel that XLA cannot join to its neighbours; float32 and float64 only."""
    if x.dtype not in (jnp.float32, jnp.float64):
        return x
    call = jax.ffi.ffi_call(
        f"bmojo_settle_{x.dtype}",
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        vmap_method="broadcast_all",
        input_output_aliases={0: 0},
    )
    return call(x)
