"""What is looked at before a run: the machine, its network, and the compiled training step."""
