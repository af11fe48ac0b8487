"""An emulator of NKI on NumPy: same names and rules, no hardware.

It stands in for the package ``nki`` where that is not installed; ``neuron.nki`` decides.
Instructions compute as documented and raise a :class:`~neuron.emulator.rules.RuleError`
where the documentation forbids something. It knows no time: ordering between engines, what a
compiler can't place, and the accuracy of the hardware's functions don't show here.
"""

from neuron.emulator import isa, language
from neuron.emulator.cost import Report
from neuron.emulator.launch import Kernel, Simulation, jit, simulate
from neuron.emulator.rules import CapacityError, NotEmulatedError, RaceError, RuleError

__all__ = [
    "CapacityError",
    "Kernel",
    "NotEmulatedError",
    "RaceError",
    "Report",
    "RuleError",
    "Simulation",
    "isa",
    "jit",
    "language",
    "simulate",
]
