"""Tasks and pipelines: where examples come from and how they become batches.

A task config has ``source(seed, split)`` -> examples by index, ``length``, ``vocab_size``,
``chance`` (accuracy of guessing) and ``slices`` (what the field ``group`` counts). An example
is a dict: ``inputs`` (L,) int32, ``targets`` (L,) int32 with -1 where there is no loss,
``group`` () int32, and ``segment_ids`` (L,) int32 where documents are packed.
"""
