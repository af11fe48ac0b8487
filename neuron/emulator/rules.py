"""How a kernel is told that it broke a rule.

Every error names the instruction, the operand, the limit and the value found.
"""


class RuleError(Exception):
    """A kernel broke a rule of the hardware or of the language.

    Args:
      op: the instruction or function at fault.
      operand: which of its operands.
      problem: the limit and the value, and what to do if that is not plain.
    """

    def __init__(self, op: str, operand: str, problem: str):
        super().__init__(f"{op}: {operand}: {problem}")
        self.op, self.operand, self.problem = op, operand, problem


class CapacityError(RuleError):
    """The tiles that are alive do not fit on the chip."""


class RaceError(RuleError):
    """Two programs of a launch touch the same element, and nothing orders them."""


class NotEmulatedError(RuleError, AttributeError):
    """The instruction exists on the hardware, but the emulator has no model of it."""
