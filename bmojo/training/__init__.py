"""Training: experiment, setup, step, checkpoints and the loop that joins them.

The entry point is :func:`bmojo.training.train.train`. Errors of the user raise
:class:`bmojo.training.run_dir.RunError` with a remedy in the message.
"""
