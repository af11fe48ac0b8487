"""Training: experiment, setup, step, checkpoints and the loop that joins them.

The entry point is :func:`bmojo.training.train.train`::

    result = train(
        experiment,        # an Experiment: model, optimizer, trainer, curriculum, evaluations, mesh
        run_dir,           # made if absent; an unfinished run there is resumed
        config_text=text,  # kept as config.gin; a resumed run must have the same text
        console=None,      # a rich Console
        fresh=False,       # True: move the run that is in run_dir aside and start over
    )
    sys.exit(result.exit_code)  # 0 finished, 3 not finite, 130 SIGINT, 143 SIGTERM

Errors of the user raise :class:`bmojo.training.run_dir.RunError` with a remedy in the message:
a directory in use, a directory that holds another config, checkpoints that cannot be read.
"""
