"""Sweeps: many training runs from one gin file.

``plan`` turns the file into cells, ``check`` finds whether each can run and its state, ``pool``
runs them here and ``slurm`` on a cluster; ``view`` shows their progress.
"""
