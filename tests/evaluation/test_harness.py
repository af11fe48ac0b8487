"""Local tasks of lm-evaluation-harness, without a network."""

import json
import re
import types

import numpy as np
import pytest

from bmojo.errors import UserError
from bmojo.evaluation.streaming import stream_losses
from bmojo.generation.generate import generate_all
from bmojo.generation.stopping import cut
from tests.evaluation.byte_tokenizer import Bytes
from tests.small_models import model

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'bmojo[eval]')")

from bmojo.evaluation.harness import HarnessModel, run_tasks  # noqa: E402

CHOICES = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
ROLLING = """
task: prose
dataset_path: json
dataset_kwargs: {data_files: {test: prose.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""
QUESTIONS = [
    {"question": "The sky is", "choices": [" blue", " green", " a"], "answer": 0},
    {"question": "Grass is", "choices": [" blue", " green", " a"], "answer": 1},
]
TEXTS = ["A text that is longer than one segment of the state.", "Short."]


@pytest.fixture
def lm():
    return HarnessModel(model("bmojo"), Bytes(), segment_length=16, batch_size=3)


def request(*args):
    return types.SimpleNamespace(args=args)


def logprobs(context, continuation):
    coder = Bytes()
    ids = [coder.eos, *coder.encode(context + continuation)]
    losses = stream_losses(model("bmojo"), [ids], segment_length=16, batch_size=3)[0]
    return -losses[len(coder.encode(context)) :]


def test_local_tasks(lm, tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "colours.yaml").write_text(CHOICES)
    (folder / "prose.yaml").write_text(ROLLING)
    for name, rows in (("colours", QUESTIONS), ("prose", [{"text": text} for text in TEXTS])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run_tasks(lm, folder)
    nats = -sum(logprobs("", text).sum() for text in TEXTS)
    expected = nats / np.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert found["prose"]["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    picked = [
        int(np.argmax([logprobs(row["question"], choice).sum() for choice in row["choices"]]))
        for row in QUESTIONS
    ]
    right = np.mean([pick == row["answer"] for pick, row in zip(picked, QUESTIONS, strict=True)])
    assert found["colours"]["acc"] == pytest.approx(right)


def test_loglikelihood_of_continuations(lm):
    requests = [request("The sky is", " blue and wide, as it always was"), request("", "a")]
    for (total, greedy), asked in zip(lm.loglikelihood(requests, True), requests, strict=True):
        assert total == pytest.approx(logprobs(*asked.args).sum(), rel=1e-5)
        assert greedy is False


def test_generate_until(lm):
    coder = Bytes()
    prompts = [[coder.eos, *coder.encode(text)] for text in ("ab", "hello there")]
    free = generate_all(model("bmojo"), prompts, max_new_tokens=8)
    free = [coder.decode(ids[: [*ids, coder.eos].index(coder.eos)]) for ids in free]
    until = free[1][3:5]
    options = {"until": [until], "max_gen_toks": 8}
    texts = lm.generate_until([request(text, options) for text in ("ab", "hello there")], True)
    assert texts == [cut(text, [until]) for text in free]


class Merging(Bytes):
    """Bytes, but "ab" is one token, and "~" none."""

    def encode(self, text):
        ids = [22 if part == "ab" else ord(part) % 21 for part in re.findall("ab|[^~]", text)]
        return np.asarray(ids, np.int32)


@pytest.mark.parametrize(
    ("context", "continuation", "scored"),
    [
        ("xa", "b", 1),
        ("xa", "bc", 2),
        ("xy", "ab", 1),
        ("x ", "a", 2),
        ("", "ab", 1),
        ("a", "b", 1),
    ],
)
def test_a_continuation_that_merges_into_its_context_has_a_token(context, continuation, scored):
    lm = HarnessModel(model("bmojo"), Merging(), segment_length=16, batch_size=3)
    ((total, greedy),) = lm.loglikelihood([request(context, continuation)], True)
    ids = [Merging.eos, *Merging().encode(context + continuation)]
    (losses,) = stream_losses(model("bmojo"), [ids], segment_length=16, batch_size=3)
    assert total == pytest.approx(-losses[-scored:].sum(), rel=1e-5) and total < 0
    assert greedy is False


@pytest.mark.parametrize(("context", "continuation"), [("x", "~"), ("x", ""), ("", ""), ("", "~")])
def test_a_continuation_without_a_token_is_refused(context, continuation):
    lm = HarnessModel(model("bmojo"), Merging())
    with pytest.raises(UserError, match=f"continuation: {continuation!r} .* has no token"):
        lm.loglikelihood([request(context, continuation)], True)


def test_options_at_their_neutral_values_are_no_reason_to_refuse(lm):
    plain = {"until": ["zz"], "max_gen_toks": 4}
    texts = [
        lm.generate_until([request("ab", {**plain, **more})], True)
        for more in ({}, {"num_beams": 1, "repetition_penalty": 1.0, "use_cache": True})
    ]
    assert texts[0] == texts[1]


TOLD = """
task: told
dataset_path: json
custom_dataset: !function told.rows
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""
ROWS = """
import datasets

def rows(text=None, **more):
    assert text, "a text is needed"
    rows = [{"text": text}, {"text": text + text}]
    return {"test": datasets.Dataset.from_list(rows)}
"""


def test_metadata_and_limit_reach_the_tasks(lm, tmp_path):
    (tmp_path / "told.yaml").write_text(TOLD)
    (tmp_path / "told.py").write_text(ROWS)
    found = run_tasks(lm, tmp_path, limit=1, metadata={"text": "abc"})
    expected = -logprobs("", "abc").sum() / np.log(2) / 3
    assert found["told"]["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match=r"\(AssertionError: a text is needed\); check"):
        run_tasks(lm, tmp_path)


def test_tasks_by_name(lm, monkeypatch):
    asked = []

    def evaluate(lm, tasks, **options):
        asked.extend(tasks)
        return {"results": {name: {"acc,none": 0.5} for name in tasks}}

    monkeypatch.setattr("bmojo.evaluation.harness.simple_evaluate", evaluate)
    assert run_tasks(lm, "hellaswag,arc_easy") == {
        n: {"acc": 0.5} for n in ("hellaswag", "arc_easy")
    }
    assert asked == ["hellaswag", "arc_easy"]
    with pytest.raises(UserError, match="--tasks: there is no 'helaswag'; did you mean"):
        run_tasks(lm, "helaswag")


def test_unknown_decoding_is_refused(lm):
    with pytest.raises(UserError, match="num_beams cannot be followed"):
        lm.generate_until([request("a", {"num_beams": 4})], True)


def test_no_tasks(lm, tmp_path):
    with pytest.raises(UserError, match="no tasks are here"):
        run_tasks(lm, tmp_path)


def test_data_out_of_reach_is_a_users_error(lm, tmp_path):
    task = "task: far\ndataset_path: json\ndataset_kwargs:\n  data_files: none.jsonl\n"
    (tmp_path / "far.yaml").write_text(f"{task}output_type: loglikelihood\ntest_split: train\n")
    with pytest.raises(UserError, match=r"data of its tasks cannot be read \(FileNotFoundError: "):
        run_tasks(lm, tmp_path)
