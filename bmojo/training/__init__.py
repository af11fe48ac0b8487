"""Training: configs, optimizer, step, checkpoints and the loop that joins them.

The entry point is :func:`bmojo.training.train.train`::

    outcome = train(
        model_config,      # has .make(rngs) -> model, called as model(tokens, segment_ids=...)
        optimizer_config,  # OptimizerConfig
        trainer_config,    # TrainerConfig
        curriculum,        # tuple of Stage, run one after the other
        evaluations,       # tuple of Evaluation, may be empty
        run_dir,           # made if absent; holding an unfinished run, it is resumed
        config_text,       # kept as config.gin; a resumed run must have the same text
        console=None,      # a rich Console
        fresh=False,       # True: move what run_dir holds aside and start over
    )
    sys.exit(outcome.exit_code)  # 0 finished, 3 not finite, 130 SIGINT, 143 SIGTERM

What the user can put right raises :class:`bmojo.training.run_dir.RunError` with a remedy in
its message: a directory in use, a directory that holds another config, checkpoints that
cannot be read.
"""
