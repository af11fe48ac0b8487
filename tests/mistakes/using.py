"""What can go wrong with `bmojo eval` and `bmojo generate`."""

from pathlib import Path

from tests.mistakes.plant import array, nothing, remove, swap, write

EVALUATE = {
    "no run": (
        nothing, "eval books",
        "books: no run is here (no config.gin); train one with bmojo train"),
    "endless step": (
        nothing, f"eval run --step {'9' * 5000}",
        "--step: '9999...9' is no step; give a number, or best"),
    "no checkpoint": (
        remove("run/checkpoints"), "eval run",
        ".../run/checkpoints: there are no checkpoints; train first with bmojo train"),
    "broken config": (
        write("run/config.gin", "Model.d_model ="), "eval run",
        "run/config.gin:1: syntax error: ..."),
    "no such documents": (
        nothing, "eval prose perplexity --documents nowhere",
        "nowhere: ..."),
    "evaluation longer than its text": (
        nothing, "eval prose Evaluation.batches=1000",
        "Evaluation.batches: 'loss' asks for 1000 batches of 2, its data have ... examples; "
        "lower batches or batch_size, or give more data"),
    "another model": (
        nothing, "eval run Model.d_model=16",
        ".../run/checkpoints: the checkpoint of step 1 does not fit the model: parameter "
        "blocks.sublayers.0.mixer.heads.k_proj.kernel is [1, 8, 8] in the checkpoint, "
        "[1, 16, 16] in the model; use the "
        "config.gin and the code of that run"),
    "another tokenizer": (
        swap("prepared", "other"), "eval prose",
        "prose: its model was trained with another tokenizer than tokenizers:prepared/"
        "tokenizer.json; put the former file or text back, or name text prepared with that "
        "tokenizer"),
    "unknown evaluation": (
        nothing, "eval run 'Experiment.evaluations=(@Evalution(),)'",
        "command line: ...: nothing is called 'Evalution'; did you mean 'Evaluation'?"),
    "no evaluations": (
        nothing, "eval run Experiment.evaluations=()",
        "run: its config has no evaluations; add one, such as ..."),
    "perplexity without text": (
        nothing, "eval run perplexity",
        "documents: the run's data are no documents; name a folder of ... with --documents"),
    "recall of text": (
        nothing, "eval prose recall",
        "recall: the evaluation 'loss' reads text, in which there are no pairs to recall; "
        "take perplexity, or evaluate a synthetic task"),
    "no documents": (
        lambda: Path("empty").mkdir(), "eval prose perplexity --documents empty",
        "empty: no documents are here; give a folder of .txt, .jsonl, .parquet or .npy files"),
    "empty documents": (
        write("empty/a.txt"), "eval prose perplexity --documents empty",
        "empty: its documents are empty; give some with text"),
    "ids beyond the vocabulary": (
        array("a.npy", 1, 999), "eval prose perplexity --documents a.npy",
        "a.npy: 999 is not a token of this model; give ids of 0 .. 299"),
    "pickled objects": (
        write("a.npy", b"\x80\x04N."), "eval prose perplexity --documents a.npy",
        "a.npy: cannot be read as an array of numbers; write it with numpy.save"),
    "unknown kind": (
        nothing, "eval run perplexit",
        "'perplexit' is no kind of evaluation; did you mean 'perplexity'?"),
    "no harness tasks": (
        nothing, "eval prose harness --tasks books",
        "books: no tasks are here; give a folder of the harness's YAML files"),
}  # fmt: skip

GENERATE = {
    "no run": (
        nothing, "generate books --prompt a",
        "books: no run is here (no config.gin); train one with bmojo train"),
    "another tokenizer": (
        write("prose/tokenizer.spec", "tokenizers:../bpe.json"), "generate prose --prompt a",
        "prose: its model was trained with another tokenizer than ...; put the former file or "
        "text back, or ..."),
    "text for a task without": (
        nothing, "generate run --prompt a",
        '--prompt: the run was trained on a task without text; give token ids with --ids "1 2 3"'),
    "no checkpoint": (
        remove("run/checkpoints"), "generate run --ids 1",
        ".../run/checkpoints: there are no checkpoints; train first with bmojo train"),
    "ids that are no numbers": (
        nothing, "generate run --ids '1 two'",
        "--ids: ..."),
    "prompt file without an end": (
        nothing, "generate prose --file /dev/zero",
        "--file: /dev/zero cannot be read as UTF-8 text (it is a device); give another file"),
    "prompt file is a folder": (
        nothing, "generate prose --file books",
        "--file: books cannot be read as UTF-8 text (Is a directory); give another file"),
    "min-p": (
        nothing, "generate run --ids 1 --min-p 1.5",
        "--min-p: 1.5 is out of range; ..."),
    "no prompt": (
        nothing, "generate run --ids ''",
        "--ids: it is empty; give at least one token id"),
    "ids beyond the vocabulary": (
        nothing, "generate run --ids '1 32'",
        "prompt: 32 is not a token of this model; give ids of 0 .. 31"),
    "missing prompt file": (
        nothing, "generate prose --file nowhere.txt",
        "--file: nowhere.txt cannot be read as UTF-8 text (No such file or directory); give "
        "another file"),
    "prompt file in another encoding": (
        write("a.txt", b"\xe9"), "generate prose --file a.txt",
        "--file: a.txt cannot be read as UTF-8 text (...); give another file"),
    "empty stop": (
        nothing, "generate prose --prompt a --stop ''",
        "--stop: an empty text would end everything at once; leave it out"),
    "temperature": (
        nothing, "generate prose --prompt a --temperature -1",
        "--temperature: -1.0 is out of range; give 0 (the most likely token) or a positive "
        "number"),
    "top-k": (
        nothing, "generate prose --prompt a --top-k 0",
        "--top-k: 0 keeps no token; give at least 1"),
    "top-p": (
        nothing, "generate prose --prompt a --top-p 1.5",
        "--top-p: 1.5 is out of range; give a number in (0, 1]"),
}  # fmt: skip
