"""Pure functions on arrays: recurrences, innovation, selection, attention, and oracles."""
