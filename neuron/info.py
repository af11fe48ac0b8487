"""``python -m neuron.info``: which NKI is in use, and what was found."""

import importlib.metadata
import platform

from neuron.emulator import targets
from neuron.nki import CHOICE

PACKAGES = ("nki", "neuronx-cc", "jax-neuronx", "torch-neuronx", "jax", "numpy", "ml_dtypes")


def lines() -> list[str]:
    """The report, line by line."""
    target = targets.resolve()
    found = [
        f"backend   {CHOICE.backend}",
        f"because   {CHOICE.reason}",
        f"target    {target.device} ({target.name}), from {targets.VARIABLE} or the default",
        f"python    {platform.python_version()} on {platform.system()} {platform.machine()}",
    ]
    for package in PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        found.append(f"{package:<14}{version}")
    if CHOICE.backend == "emulator":
        found.append("Nothing here runs on Trainium: kernels are emulated in NumPy.")
    return found


if __name__ == "__main__":
    print("\n".join(lines()))
