"""XLA flags for programs that compile much and compute little, such as tests."""

from importlib.metadata import version


def quick_to_compile(jaxlib: str) -> str:
    """Flags for a version of jaxlib; XLA ends the process at a flag that it does not know."""
    flags = ["--xla_backend_optimization_level=0"]
    if tuple(map(int, jaxlib.split(".")[:2])) < (0, 11):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


QUICK_TO_COMPILE = quick_to_compile(version("jaxlib"))
