"""Models in files that other programs read."""
