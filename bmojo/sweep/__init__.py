"""Sweeps: many training runs from one gin file, started, watched, stopped and gone on with.

``plan`` turns the file into cells, ``check`` sees that each can run and what is there of it,
``pool`` runs them here and ``slurm`` on a cluster; ``watch`` reads how far they are and ``view``
shows it. What a worker starts is told by the command line.
"""
