"""What can go wrong with `bmojo train`: before a run, and with a run that is there."""

from tests.mistakes.plant import locked, nothing, remove, swap, write

TRAIN = {
    "no such config": (
        nothing, "train nowhere.gin",
        "command line: no config file 'nowhere.gin'; looked in ..."),
    "no config": (
        nothing, "train ''",
        "CONFIG: '' names no file; give a gin file"),
    "a run for a config": (
        nothing, "train run",
        "command line: 'run' is a folder; write 'run/config.gin'"),
    "no such overlay": (
        nothing, "train tiny.gin nowhere.gin",
        "command line: no config file 'nowhere.gin'; looked in ..."),
    "overlay without its ending": (
        nothing, "train tiny.gin prose",
        "command line: 'prose' is not KEY=VALUE, as in Model.d_model=128"),
    "config that includes itself": (
        write("a.gin", "include 'a.gin'"), "train a.gin",
        "a.gin:1: include cycle: a.gin -> a.gin; remove one include"),
    "empty config": (
        write("a.gin"), "train a.gin",
        "a.gin: Experiment.model must be set; add Experiment.model = ..."),
    "config in another encoding": (
        write("a.gin", b"Model.d_model = '\xe9'"), "train a.gin",
        "a.gin: cannot be read (it is not UTF-8); give a gin file"),
    "unknown task": (
        nothing, "train tiny.gin Stage.data=@MQRA()",
        "command line: Stage.data=@MQRA(): Stage.data: nothing is called 'MQRA'; did you mean "
        "'MQAR'?"),
    "unknown mixer": (
        nothing, "train tiny.gin 'Model.pattern=(@Attenton(), @MLP())'",
        "command line: ...: Model.pattern: nothing is called 'Attenton'; did you mean "
        "'Attention'?"),
    "length": (
        nothing, "train tiny.gin MQAR.length=0",
        "command line: MQAR.length=0: MQAR.length: 0 is too small; give at least 1"),
    "negative length": (
        nothing, "train tiny.gin MQAR.length=-16",
        "command line: MQAR.length=-16: MQAR.length: -16 is too small; give at least 1"),
    "steps that are no integer": (
        nothing, "train tiny.gin Stage.steps=2.5",
        "command line: Stage.steps=2.5: Stage.steps: 2.5 is not an integer"),
    "no rows": (
        nothing, "train tiny.gin Stage.batch_size=0",
        "command line: Stage.batch_size=0: Stage.batch_size: 0 is too small; give at least 1"),
    "negative number of steps between lines": (
        nothing, "train tiny.gin Trainer.log_every=-1",
        "command line: ...: Trainer.log_every: ..."),
    "no checkpoint is kept": (
        nothing, "train tiny.gin Trainer.keep=0",
        "command line: ...: Trainer.keep: ..."),
    "negative seed": (
        nothing, "train tiny.gin --seed -1",
        "command line: ...: Trainer.seed: ..."),
    "evaluation without batches": (
        nothing, "train tiny.gin Evaluation.batches=0",
        "command line: ...: Evaluation.batches: ..."),
    "two evaluations of one name": (
        nothing, "train tiny.gin 'Experiment.evaluations=(@Evaluation(), @Evaluation())'",
        "command line: ...: Experiment.evaluations: names must differ, got recall, recall"),
    "too many pairs": (
        nothing, "train tiny.gin MQAR.num_pairs=(5,)",
        "tiny.gin:15: MQAR.length: 5 pairs shown 1 times and queried once need 20 tokens, got "
        "16; raise length to 20 or lower num_pairs"),
    "too few keys": (
        nothing, "train tiny.gin MQAR.vocab_size=4",
        "command line: MQAR.vocab_size=4: MQAR.vocab_size: 4 tokens hold 1 keys, fewer than the "
        "2 pairs; raise vocab_size to 6 or lower num_pairs"),
    "vocabulary too small": (
        nothing, "train tiny.gin Model.vocab_size=16",
        "tiny.gin:4: Experiment.curriculum: its data have 32 tokens, the model only 16; raise "
        "Model.vocab_size"),
    "infinite clip": (
        nothing, "train tiny.gin Optimizer.clip=1e999",
        "command line: Optimizer.clip=1e999: Optimizer.clip: it is not a number of at most 2e+308 "
        "or None; give another"),
    "more steps than there are numbers": (
        nothing, "train tiny.gin Stage.steps=1000000000000000000000",
        "command line: ...: Stage.steps: it is not a number of at most 9e+18; give another"),
    "an endless number": (
        nothing, f"train tiny.gin Stage.steps={'9' * 5000}",
        "command line: ...: syntax error: ..."),
    "thousands of brackets": (
        write("a.gin", f"include 'tiny.gin'\nMQAR.num_pairs = {'(' * 5000}{')' * 5000}\n"),
        "train a.gin",
        "a.gin: syntax error: too many brackets"),
    "a module that raises": (
        lambda: [
            write("mine.py", "\nraise RuntimeError('not today')\n")(),
            write("a.gin", "import mine\ninclude 'tiny.gin'\n")(),
        ],
        "train a.gin",
        "a.gin:1: cannot import 'mine': ...mine.py:2: RuntimeError: not today"),
    "a model beyond all memory": (
        nothing, "train tiny.gin Model.d_model=1000000000",
        "Experiment: a step needs more than ... for parameters and optimizer and ... for its "
        "tokens and state, and there are ...; make the model, the rows or their length smaller"),
    "a vocabulary beyond all memory": (
        nothing,
        "train tiny.gin Model.vocab_size=8000000000000000 MQAR.vocab_size=8000000000000000",
        "data: Unable to allocate ...; make them smaller"),
    "rows beyond all memory": (
        nothing, "train tiny.gin Stage.batch_size=1000000000000",
        "Experiment: a step needs more than ... for parameters and optimizer and ... for its "
        "tokens and state, and there are ...; make the model, the rows or their length smaller"),
    "a window beyond all memory": (
        nothing, "train tiny.gin Attention.window=1000000000",
        "Experiment: a step needs more than ...; make the model, the rows or their length smaller"),
    "a window of both memories beyond all memory": (
        nothing,
        "train tiny.gin 'Model.pattern=(@BMojo(), @MLP())' BMojo.n_heads=2 BMojo.window=1000000000",
        "Experiment: a step needs more than ...; make the model, the rows or their length smaller"),
    "a learning rate for parameters that are not there": (
        nothing, "train tiny.gin Optimizer.ssm_learning_rate=1e-3",
        "Optimizer.ssm_learning_rate: no parameter of the model is in the group 'ssm'; leave it "
        "out"),
    "an end of a schedule without an end": (
        nothing,
        "train tiny.gin \"Optimizer.schedule='constant'\" Optimizer.final_learning_rate=1e-4",
        "command line: ...: Optimizer.final_learning_rate: 0.0001 has no effect with "
        "Optimizer.schedule = 'constant'; leave one of them out"),
    "a run directory that is not UTF-8": (
        nothing, "train tiny.gin --run-dir new\udcff",
        "'...new\\udcff' cannot be written as utf-8; use other characters"),
    "the wrong number through a macro": (
        write("a.gin", "include 'tiny.gin'\nN_HEADS = 2\nAttention.n_heads = %N_HEADS"),
        "train a.gin N_HEADS=3",
        "command line: N_HEADS=3: Attention.n_heads: must divide d_model = 8, got 3"),
    "the short name of a parameter": (
        nothing, "train tiny.gin Optimizer.lr=1e-3",
        "command line: Optimizer.lr=1e-3: Optimizer.lr: Optimizer has no parameter 'lr'; did you "
        "mean 'learning_rate'?"),
    "a part of an experiment": (
        nothing, "train sizes/tiny.gin",
        "...sizes/tiny.gin: is a part of an experiment (it binds no Experiment.model); name the "
        "experiment first, as in: experiments/mqar.gin sizes/tiny.gin"),
    "a home that is not there": (
        nothing, "train tiny.gin --run-dir '~nobody-is-called-this/run'",
        "~: there is no such home directory; write the path without it"),
    "empty curriculum": (
        nothing, "train tiny.gin Experiment.curriculum=()",
        "command line: ...: Experiment.curriculum: needs at least one stage"),
    "stage of no steps": (
        nothing, "train tiny.gin Stage.steps=0",
        "command line: Stage.steps=0: Stage.steps: 0 is too small; give at least 1"),
    "negative learning rate": (
        nothing, "train tiny.gin Optimizer.learning_rate=-1.0",
        "command line: ...: Optimizer.learning_rate: -1.0 is out of range; give a number above 0"),
    "unknown schedule": (
        nothing, "train tiny.gin Optimizer.schedule=cosin",
        "command line: ...: Optimizer.schedule: 'cosin' is unknown; did you mean 'cosine'? The "
        "choices are 'cosine', 'linear', 'constant'"),
    "heads that do not divide": (
        nothing, "train tiny.gin Attention.n_heads=3",
        "command line: ...: Attention.n_heads: must divide d_model = 8, got 3"),
    "slots without a window": (
        nothing, "train tiny.gin 'Model.pattern=(@BMojo(), @MLP())' BMojo.window=0",
        "command line: BMojo.window=0: BMojo.window: slots need a window of at least 1; or set "
        "them to 0"),
    "segments that do not divide": (
        nothing, "train tiny.gin Trainer.segments_per_document=3",
        "command line: ...: Trainer.segments_per_document: 3 does not divide the 16 tokens of "
        "MQARConfig; give a divisor, or another length"),
    "parts of a batch that do not divide": (
        nothing, "train tiny.gin Trainer.accumulate=3",
        "command line: ...: Trainer.accumulate: 3 does not divide the 2 rows of Stage.batch_size; "
        "give a divisor"),
    "the best of no field": (
        nothing, "train tiny.gin Trainer.best=lossx",
        "command line: Trainer.best=lossx: Trainer.best: 'lossx' is not 'evaluation/field'; the "
        "fields are accuracy, loss, bits_per_byte, as in 'recall/accuracy'"),
    "the best of an unknown field": (
        write("a.gin", "include 'tiny.gin'\nTrainer.best = 'recall/lossx'"), "train a.gin",
        "a.gin:2: Trainer.best: 'recall/lossx' is not 'evaluation/field'; the fields are "
        "accuracy, loss, bits_per_byte, as in 'recall/accuracy'"),
    "the best of an unknown evaluation": (
        write("a.gin", "include 'tiny.gin'\nTrainer.best = 'recal/loss'"), "train a.gin",
        "a.gin:2: Trainer.best: 'recal/loss': no evaluation is called 'recal'; did you mean "
        "'recall'?"),
    "the best of what text alone has": (
        write("a.gin", "include 'tiny.gin'\nTrainer.best = 'recall/bits_per_byte'"),
        "train a.gin",
        "a.gin:2: Trainer.best: 'recall/bits_per_byte': 'recall' is not of text and has no "
        "bits_per_byte; take recall/loss"),
    "seed beyond JAX": (
        nothing, "train tiny.gin --seed 4294967296",
        "command line: ...: Trainer.seed: 4294967296 is too large; give at most 4294967295"),
    "no example of a split": (
        nothing, "train tiny.gin 'Stage.data=@SelectiveCopying()' SelectiveCopying.length=4 "
        "'SelectiveCopying.num_tokens=(1,)' SelectiveCopying.vocab_size=6 "
        "SelectiveCopying.noise_vocab=3",
        "SelectiveCopying.vocab_size: too few different examples are possible to have some in "
        "the train split; raise vocab_size"),
    "no such text": (
        remove("prepared"), "train prose.gin",
        "Text.path: prepared: there is nothing here; prepare it with bmojo data prepare SOURCE "
        "--out prepared"),
    "vocabulary below the tokenizer's": (
        nothing, "train prose.gin Text.vocab_size=100",
        "Text.vocab_size: 100 tokens do not hold the 257 of the tokenizer of prepared; raise it "
        "to 257"),
    "text shorter than a window": (
        nothing, "train prose.gin train/Text.length=100000",
        "Text.length: the split 'train' of prepared has ... tokens, fewer than a window of "
        "100000; lower Text.length, or prepare more text"),
    "evaluation longer than its text": (
        nothing, "train prose.gin Evaluation.batches=1000",
        "Evaluation.batches: 'loss' asks for 1000 batches of 2, its data have ... examples; "
        "lower batches or batch_size, or give more data"),
    "a shard of the text is missing": (
        remove("prepared/train*.array_record"), "train prose.gin",
        "prepared/train-00000.array_record: the shard is missing; put it back, or ..."),
    "run directory is a file": (
        nothing, "train tiny.gin --run-dir prose.gin",
        ".../prose.gin: the run directory cannot be written (File exists); choose another with "
        "--run-dir"),
    "run directory below a file": (
        nothing, "train tiny.gin --run-dir prose.gin/run",
        ".../prose.gin/run: the run directory cannot be written (Not a directory); choose another "
        "with --run-dir"),
}  # fmt: skip

RESUME = {
    "changed config": (
        nothing, "train tiny.gin --run-dir run Stage.steps=3",
        ".../run/config.gin:...: the run there has 'Stage.steps = 2', this config has "
        "'Stage.steps = 3'; choose another directory with --run-dir, or start over with --fresh"),
    "files that are no run": (
        write("mine/notes.txt", b"mine"), "train tiny.gin --run-dir mine --fresh",
        ".../mine: holds files, but no run; choose a new or empty directory with --run-dir"),
    "no config": (
        remove("run/config.gin"), "train tiny.gin --run-dir run",
        ".../run: there is a run but no config.gin to tell which; choose another directory ..."),
    "unreadable config": (
        write("run/config.gin", b"\xff"), "train tiny.gin --run-dir run",
        ".../run/config.gin: cannot be read (it is not UTF-8); put it back, or start over with "
        "--fresh"),
    "unreadable summary": (
        write("run/summary.json", "[]"), "train tiny.gin --run-dir run",
        ".../run/summary.json: has no 'status'; delete it, and the run goes on from its last "
        "checkpoint"),
    "summary without a step": (
        write("run/summary.json", '{"status": "finished"}'), "train tiny.gin --run-dir run",
        ".../run/summary.json: has no 'step'; delete it, and the run goes on from its last "
        "checkpoint"),
    "torn summary": (
        write("run/summary.json", '{"status"'), "train tiny.gin --run-dir run",
        ".../run/summary.json: not readable as JSON (...); delete it, and the run goes on from its "
        "last checkpoint"),
    "a line of metrics is broken": (
        write("run/metrics.jsonl", '{"step": 1}\n{"step"\n'), "train --run-dir run tiny.gin",
        ".../run/metrics.jsonl:2: is no record of a run; delete the line, and the run goes on"),
    "a foreign line of metrics": (
        write("run/metrics.jsonl", "[1]\n"), "train --run-dir run tiny.gin",
        ".../run/metrics.jsonl:1: is no record of a run; delete the line, and the run goes on"),
    "another process trains there": (
        locked("run/.lock"), "train tiny.gin --run-dir run",
        ".../run: process ... is training here; wait for it, stop it, or choose another directory "
        "with --run-dir"),
    "checkpoint of another format": (
        write("run/checkpoints/1/meta/metadata", "{"), "train tiny.gin --run-dir run",
        ".../run/checkpoints: no checkpoint can be read; the newest, of step 1: ...; start over "
        "with --fresh, or use the code version of summary.json"),
    "broken checkpoint": (
        remove("run/checkpoints/1/parameters"), "train tiny.gin --run-dir run",
        ".../run/checkpoints: no checkpoint can be read; the newest, of step 1: ...; start over "
        "with --fresh, or use the code version of summary.json"),
    "changed text": (
        swap("prepared", "other"), "train prose.gin --run-dir prose",
        "data: they are not those that the run was started with (another fingerprint); put the "
        "former data back, or start over with --fresh"),
}  # fmt: skip
