"""Every way to get a config wrong: one line with the place and the nearest valid name."""

import pytest

from bmojo import config
from bmojo.errors import ConfigError
from bmojo.experiment import REGISTRY, load

GOOD = """\
# A whole experiment.
Experiment.model = @Model()
Experiment.optimizer = @Optimizer()
Experiment.trainer = @Trainer()
Experiment.curriculum = (@short/Stage(), @long/Stage())
Experiment.evaluations = (@recall/Evaluation(),)

Model.vocab_size = %VOCAB_SIZE
Model.d_model = 16
Model.n_layers = 1
Model.pattern = (@BMojo(), @MLP())
BMojo.window = 8
BMojo.n_heads = 2
BMojo.num_eidetic = 4
VOCAB_SIZE = 32

Stage.data = @MQAR()
Stage.steps = 2
Stage.batch_size = 2
MQAR.vocab_size = %VOCAB_SIZE
MQAR.num_pairs = (2, 4)
short/MQAR.length = 16
long/MQAR.length = 32
recall/Evaluation.name = 'recall'
recall/Evaluation.data = @long/MQAR()
"""

# name: (lines after `include 'good.gin'` in main.gin, the error)
IN_A_FILE = {
    "unknown configurable": (
        "Modle.d_model = 32",
        "main.gin:2: Modle.d_model: nothing is called 'Modle'; did you mean 'Model'?",
    ),
    "unknown configurable, wrong case": (
        "bmojo.window = 4",
        "main.gin:2: bmojo.window: nothing is called 'bmojo'; did you mean 'BMojo'?",
    ),
    "unknown parameter": (
        "\nModel.d_modle = 32",
        "main.gin:3: Model.d_modle: Model has no parameter 'd_modle'; did you mean 'd_model'?",
    ),
    "unknown parameter unlike any": (
        "MLP.zzz = 32",
        "main.gin:2: MLP.zzz: MLP has no parameter 'zzz'; choose one of bias, d_ff",
    ),
    "unknown reference": (
        "Model.pattern = (@BMojoo(), @MLP())",
        "main.gin:2: Model.pattern: nothing is called 'BMojoo'; did you mean 'BMojo'?",
    ),
    "reference without parentheses": (
        "Model.pattern = (@BMojo, @MLP())",
        "main.gin:2: Model.pattern: @BMojo lacks its parentheses; write @BMojo()",
    ),
    "never used": (
        "Attention.window = 4",
        "main.gin:2: Attention.window: Attention is never used; "
        "remove the line, or refer to @Attention() somewhere",
    ),
    "never used, but a default": (
        "SelectiveSSM.d_state = 4",
        "main.gin:2: SelectiveSSM.d_state: SelectiveSSM is never used; "
        "BMojo.fading has a default: bind it to @SelectiveSSM()",
    ),
    "never used in its scope": (
        "recall/Stage.steps = 4",
        "main.gin:2: recall/Stage.steps: Stage is never used in this scope; "
        "remove the line, or refer to @recall/Stage() somewhere",
    ),
    "scope never entered": (
        "lnog/MQAR.length = 64",
        "main.gin:2: lnog/MQAR.length: the scope 'lnog' is never entered; did you mean 'long'?",
    ),
    "no effect": (
        "MQAR.length = 64",
        "main.gin:2: MQAR.length has no effect; "
        "short/MQAR.length (good.gin:22) goes before it: bind that",
    ),
    "undefined macro": (
        "Model.d_model = %VOCABSIZE",
        "main.gin:2: Model.d_model: no macro %VOCABSIZE; did you mean %VOCAB_SIZE?",
    ),
    "undefined macro unlike any": (
        "Model.d_model = %D",
        "main.gin:2: Model.d_model: no macro %D; define D = ...",
    ),
    "macro that nobody reads": (
        "VOCABSIZE = 64",
        "main.gin:2: VOCABSIZE: nobody reads the macro; did you mean 'VOCAB_SIZE'?",
    ),
    "shared macro that nobody reads": (
        "WINDOW = 64",
        "main.gin:2: WINDOW: nobody reads the macro; write %WINDOW where its value belongs",
    ),
    "parameter without its class": (
        "d_model = 64",
        "main.gin:2: d_model: nobody reads the macro; did you mean Model.d_model?",
    ),
    "macros in a circle": (
        "A = %B\nB = (%A,)\nModel.d_model = %A",
        "main.gin:2: A: macros in a circle: %A -> %B -> %A",
    ),
    "contains itself": (
        "BMojo.fading = @BMojo()",
        "main.gin:2: @BMojo() contains itself; refer to something else here",
    ),
    "string for an integer": (
        "Model.d_model = 'wide'",
        "main.gin:2: Model.d_model: 'wide' is not an integer",
    ),
    "wrong type in a macro": (
        "\n\nVOCAB_SIZE = 'many'",
        "main.gin:4: Model.vocab_size: 'many' is not an integer",
    ),
    "float for an integer": (
        "Model.d_model = 1e2",
        "main.gin:2: Model.d_model: 100.0 is not an integer; write 100",
    ),
    "boolean for an integer": (
        "Model.n_layers = True",
        "main.gin:2: Model.n_layers: True is not an integer",
    ),
    "integer for a boolean": (
        "Model.tie_embeddings = 1",
        "main.gin:2: Model.tie_embeddings: 1 is not True or False",
    ),
    "string for an optional number": (
        "Optimizer.clip = 'none'",
        "main.gin:2: Optimizer.clip: 'none' is not a number or None",
    ),
    "None for a required number": (
        "Model.d_model = None",
        "main.gin:2: Model.d_model: None is not an integer",
    ),
    "number for a tuple": (
        "MQAR.num_pairs = (4)",
        "main.gin:2: MQAR.num_pairs: 4 is not a tuple; write (4,), with the comma",
    ),
    "list for a tuple": (
        "MQAR.num_pairs = [2, 4]",
        "main.gin:2: MQAR.num_pairs: [2, 4] is a list; write a tuple, (2, 4)",
    ),
    "wrong entry of a tuple": (
        "MQAR.num_pairs = (2, '4')",
        "main.gin:2: MQAR.num_pairs: entry 1: '4' is not an integer",
    ),
    "tuple of one stage without comma": (
        "Experiment.curriculum = (@short/Stage())",
        "main.gin:2: Experiment.curriculum: a Stage is not a tuple; "
        "write (@...(),), with the comma",
    ),
    "wrong kind of object": (
        "Experiment.model = @Trainer()",
        "main.gin:2: Experiment.model: a TrainerConfig is not a ModelConfig; "
        "give a reference, such as @Name()",
    ),
    "string for a mixer": (
        "Model.pattern = ('bmojo', @MLP())",
        "main.gin:2: Model.pattern: entry 0: 'bmojo' is not a MixerConfig; "
        "give a reference, such as @Name()",
    ),
    "unknown choice": (
        "BMojo.tokens = 'inputs'",
        "main.gin:2: BMojo.tokens: 'inputs' is unknown; "
        "did you mean 'input'? The choices are 'ssm', 'conv', 'input'",
    ),
    "unknown schedule": (
        "Optimizer.schedule = 'cosin'",
        "main.gin:2: Optimizer.schedule: 'cosin' is unknown; "
        "did you mean 'cosine'? The choices are 'cosine', 'linear', 'constant'",
    ),
    "out of range": (
        "\n\nOptimizer.learning_rate = -1.0",
        "main.gin:4: Optimizer.learning_rate: -1.0 is out of range; give a number above 0",
    ),
    "out of range in a scope": (
        "short/Stage.batch_size = 0",
        "main.gin:2: Stage.batch_size: 0 is too small; give at least 1",
    ),
    "out of range with others": (
        "long/MQAR.length = 8",
        "main.gin:2: MQAR.length: 4 pairs shown 1 times and queried once need 16 tokens, "
        "got 8; raise length to 16 or lower num_pairs",
    ),
    "empty curriculum": (
        "Experiment.curriculum = ()",
        "main.gin:2: Experiment.curriculum: needs at least one stage",
    ),
    "data with more tokens than the model": (
        "Model.vocab_size = 16",
        "good.gin:5: Experiment.curriculum: its data have 32 tokens, the model only 16; "
        "raise Model.vocab_size",
    ),
    "required binding missing": (
        "Experiment.evaluations = (@test/Evaluation(),)\ntest/Evaluation.name = 'test'",
        "main.gin:2: test/Evaluation.data must be set; add test/Evaluation.data = ...",
    ),
    "missing include": (
        "include 'sizes/tinny.gin'",
        "main.gin:2: no config file 'sizes/tinny.gin'; did you mean 'sizes/tiny.gin'?",
    ),
    "include cycle": (
        "include 'main.gin'",
        "main.gin:2: include cycle: main.gin -> main.gin; remove one include",
    ),
    "undone by a later include": (
        "Model.d_model = 32\ninclude 'good.gin'",
        "main.gin:2: Model.d_model is undone by a later include of this file (good.gin:9); "
        "put includes first",
    ),
    "bound twice in one file": (
        "Model.d_model = 32\n\nModel.d_model = 64",
        "main.gin:4: Model.d_model is already bound in line 2 of this file; remove one of the two",
    ),
    "no value": (
        "Model.d_model",
        "main.gin:2: syntax error: Couldn't parse statement, expected ':' or '='",
    ),
    "lower-case true": (
        "Model.tie_embeddings = true",
        "main.gin:2: syntax error: true is not a value; write True",
    ),
    "bare name": (
        "Model.dtype = bfloat16",
        "main.gin:2: syntax error: bfloat16 is not a value; "
        "write 'bfloat16', @bfloat16() or %bfloat16",
    ),
    "arithmetic": (
        "Model.d_model = 2**5",
        "main.gin:2: syntax error: more follows the value; "
        "a value is one literal, without arithmetic",
    ),
    "open bracket": (
        "MQAR.num_pairs = (2, 4",
        "main.gin:2: syntax error: the file ends inside a value; close its bracket or quote",
    ),
    "unknown module": (
        "import no_such_module_anywhere",
        "main.gin:2: cannot import 'no_such_module_anywhere': "
        "No module named 'no_such_module_anywhere'; put its file beside the config, or its folder "
        "into PYTHONPATH",
    ),
}

ON_THE_COMMAND_LINE = {
    "Model.d_modle=32": (
        "command line: Model.d_modle=32: Model.d_modle: Model has no parameter 'd_modle'; "
        "did you mean 'd_model'?"
    ),
    "Model.d_model=wide": (
        "command line: Model.d_model=wide: Model.d_model: 'wide' is not an integer"
    ),
    "shrt/Stage.steps=1": (
        "command line: shrt/Stage.steps=1: shrt/Stage.steps: the scope 'shrt' is never entered; "
        "did you mean 'short'?"
    ),
    "MQAR.length=64": (
        "command line: MQAR.length=64: MQAR.length has no effect; "
        "short/MQAR.length (good.gin:22) goes before it: bind that"
    ),
    "BMojo.window=(4": (
        "command line: BMojo.window=(4: syntax error: the file ends inside a value; "
        "close its bracket or quote"
    ),
    "--d_model": "command line: '--d_model' is not KEY=VALUE, as in Model.d_model=128",
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.gin").write_text(GOOD)
    return tmp_path


def failure(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        config.load(REGISTRY, "Experiment", [path], overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", IN_A_FILE)
def test_error_names_file_line_and_remedy(folder, name):
    lines, expected = IN_A_FILE[name]
    (folder / "main.gin").write_text(f"include 'good.gin'\n{lines}\n")
    assert failure("main.gin") == expected


@pytest.mark.parametrize("override", ON_THE_COMMAND_LINE)
def test_error_names_the_command_line(override):
    assert failure("good.gin", override) == ON_THE_COMMAND_LINE[override]


def test_the_config_they_break_is_good():
    loaded = config.load(REGISTRY, "Experiment", ["good.gin"])
    assert [stage.data.length for stage in loaded.value.curriculum] == [16, 32]


def test_longer_include_cycle(folder):
    (folder / "a.gin").write_text("# a\ninclude 'b.gin'\n")
    (folder / "b.gin").write_text("include 'c.gin'\n")
    (folder / "c.gin").write_text("\n\ninclude 'b.gin'\n")
    expected = "c.gin:3: include cycle: b.gin -> c.gin -> b.gin; remove one include"
    assert failure("a.gin") == expected


def test_missing_config_suggests_a_name():
    expected = (
        "no config file 'experiments/quikstart.gin'; did you mean 'experiments/quickstart.gin'?"
    )
    assert failure("experiments/quikstart.gin") == f"command line: {expected}"


def test_root_binding_missing(folder):
    (folder / "empty.gin").write_text("# nothing\n")
    expected = "empty.gin: Experiment.model must be set; add Experiment.model = ..."
    assert failure("empty.gin") == expected


def test_file_in_another_folder_is_named_in_full(folder, monkeypatch):
    (folder / "main.gin").write_text("Modle.x = 1\n")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert failure(folder / "main.gin").startswith(f"{folder / 'main.gin'}:1: Modle.x: ")


def test_widths_that_do_not_fit_are_told_with_their_place():
    with pytest.raises(ConfigError) as caught:
        load("good.gin", ["BMojo.n_heads=3"])
    expected = "command line: BMojo.n_heads=3: BMojo.n_heads: must divide d_model = 16, got 3"
    assert str(caught.value) == expected


def test_parameters_out_of_reach_are_told_with_their_place():
    with pytest.raises(ConfigError) as caught:
        load("good.gin", ["Model.parameters=10"])
    start = "command line: Model.parameters=10: Model.parameters: 10 is below the "
    assert str(caught.value).startswith(start)


def test_a_failed_load_leaves_nothing_behind():
    failure("good.gin", "Model.d_model=wide")
    assert config.load(REGISTRY, "Experiment", ["good.gin"]).value.model.d_model == 16
