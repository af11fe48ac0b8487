"""What a user of `bmojo generate` sees."""

import re

import pytest

SUMMARY = re.compile(
    r'prompt 1: ".*"\n(?:continuation 1 ended .*\n)'
    r"prompt tokens (\d+), new tokens (\d+), prefill [\d,]+ tokens/s, decode [\d.]+ ms/token, "
    r"state [\d,]+ bytes, compilation [\d.]+ s\n"
)


def test_ids_of_a_synthetic_task(bmojo, here):
    options = ("--max-new-tokens", "5", "--temperature", "0")
    result = bmojo("generate", here, "--ids", "3 200 9", *options)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.split()) == 5
    assert SUMMARY.fullmatch(result.stderr).groups() == ("3", "5")
    both = bmojo("generate", here, "--ids", "8", "--ids", "3,200,9", *options)
    first, second = both.stdout.split("--- 2 ---\n")
    assert first.startswith("--- 1 ---\n")
    assert second == result.stdout


def test_the_batch_does_not_matter(bmojo, here):
    prompts = [word for ids in ("3", "200 9", "7 7 7") for word in ("--ids", ids)]
    options = ("--max-new-tokens", "4", "--seed", "5")
    whole = bmojo("generate", here, *prompts, *options)
    assert whole.exit_code == 0, whole.output
    assert bmojo("generate", here, *prompts, *options, "--batch", "2").stdout == whole.stdout
    assert bmojo("generate", here, *prompts, "--max-new-tokens", "4").stdout != whole.stdout


def test_what_the_batch_changes_is_said(bmojo):
    assert "in bfloat16 it may change tokens" in " ".join(
        bmojo("generate", "--help").stdout.split()
    )


def test_text_streams_and_stops(bmojo, prose, tmp_path):
    result = bmojo("generate", prose, "--prompt", "ab", "--max-new-tokens", "6")
    assert result.exit_code == 0, result.output
    text = result.stdout.removesuffix("\n")
    assert SUMMARY.fullmatch(result.stderr).groups() == ("3", "6")
    cut = bmojo("generate", prose, "--prompt", "ab", "--stop", text[2:4], "--max-new-tokens", "6")
    assert cut.stdout == text[: text.index(text[2:4])] + "\n"
    (tmp_path / "prompt.txt").write_text("ab")
    same = bmojo("generate", prose, "--file", "prompt.txt", "--max-new-tokens", "6")
    assert same.stdout == result.stdout


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--prompt", "a"], "--prompt: the run was trained on a task without text; give"),
        (["--file", "x"], "--file: the run was trained on a task without text; give"),
        ([], "--ids: nothing to continue"),
        (["--ids", "1 x"], "--ids: '1 x' is not a row of token ids"),
        (["--ids", "99999999999"], "--ids: '99999999999' is not a row of token ids"),
        (["--ids", " "], "--ids: it is empty"),
        (["--ids", "1 256"], "prompt: 256 is not a token of this model; give ids of 0 .. 255"),
        (["--ids", "1", "--stop", "x"], "--stop: the run has no tokenizer"),
        (["--ids", "1", "--stop", ""], "--stop: an empty text"),
        (["--ids", "1", "--top-p", "0"], "--top-p: 0.0 is out of range"),
        (["--ids", "1", "--temperature", "-1"], "--temperature: -1.0 is out of range"),
    ],
)
def test_errors_are_one_line(bmojo, here, options, error):
    result = bmojo("generate", here, *options)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {error}")
    assert result.stderr.count("\n") == 1


def test_a_missing_file(bmojo, prose):
    result = bmojo("generate", prose, "--file", "nowhere.txt")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --file: nowhere.txt cannot be read")
