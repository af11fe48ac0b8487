"""Runs found, read and pooled."""

import pytest

from bmojo.errors import UserError
from bmojo.evaluation.collect import collect, evaluations_of, pool, spread
from tests.evaluation.runs import fabricate


def test_runs_are_found_at_any_depth_once_and_in_order(tmp_path):
    for name in ("a-slots16-seed0", "a-slots8-seed0", "deep/er/b-lr0.01", "deep/er/b-lr0.002"):
        fabricate(tmp_path, name)
    fabricate(tmp_path, "a-slots8-seed0.old1")
    (tmp_path / "a-slots8-seed0" / "checkpoints" / "x").mkdir(parents=True)
    (tmp_path / "a.log").touch()
    found = collect([tmp_path / "a-slots16-seed0", tmp_path / "a.log", tmp_path])
    assert [str(run.path.relative_to(tmp_path)) for run in found] == [
        "a-slots16-seed0", "a-slots8-seed0", "deep/er/b-lr0.002", "deep/er/b-lr0.01",
    ]  # fmt: skip
    assert [run.name for run in found][:2] == ["a-slots16", "a-slots8"]
    (aside,) = collect([tmp_path / "a-slots8-seed0.old1"])
    assert aside.path.name.endswith(".old1")


def test_no_runs(tmp_path):
    with pytest.raises(UserError, match="no such directory; give run directories"):
        collect([tmp_path / "none"])
    with pytest.raises(UserError, match="no runs are here; train some with bmojo train"):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", "{", r"summary\.json: not readable as JSON"),
        ("summary.json", "[]", r"summary\.json: holds no JSON object"),
        ("summary.json", "{}", r"summary\.json: has no 'status'; it is not of a run"),
        ("metrics.jsonl", "{\n{}\n", r"metrics\.jsonl:1: is no record of a run"),
        ("evaluation/perplexity.json", "x", r"perplexity\.json: not readable as JSON"),
        ("config.gin", None, r"config\.gin: cannot be read \(No such file or directory\)"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    path = fabricate(tmp_path, "a") / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        collect([tmp_path])


def test_seeds_are_pooled_and_spread_is_exact(tmp_path):
    for seed, accuracy in ((2, 0.75), (0, 0.25), (1, 0.875)):
        fabricate(tmp_path, f"a-seed{seed}", accuracy, seed=seed)
    fabricate(tmp_path, "b-seed0", slots=8)
    fabricate(tmp_path, "b-seed1", slots=8, seed=1, finished=False)
    a, b = pool(collect([tmp_path]))
    assert (a.label, [run.seed for run in a.runs]) == ("a", [0, 1, 2])
    assert (b.label, [run.seed for run in b.runs]) == ("b", [0])
    assert (evaluations_of([a]), a.groups("recall")) == (["recall"], [8, 16])
    pooled = spread(a.runs, lambda run: run.measured("recall", 8, "accuracy"))
    assert (pooled.mean, pooled.low, pooled.high, pooled.count) == (0.625, 0.25, 0.875, 3)
    speed = spread(a.runs, lambda run: run.tokens_per_second())
    assert (speed.mean, speed.low, speed.high) == (201.0, 200.0, 202.0)
    assert spread(a.runs, lambda run: run.number("no such")) is None


def test_a_seed_that_was_run_twice_counts_once(tmp_path):
    fabricate(tmp_path, "a-seed0", 0.25)
    fabricate(tmp_path, "z/a-seed0", 0.75)
    (cell,) = pool(collect([tmp_path]))
    assert [run.measured("recall", 8, "accuracy") for run in cell.runs] == [0.25]


def test_names_that_tell_nothing_are_replaced_by_bindings(tmp_path):
    for number, (slots, rate) in enumerate([(8, 0.1), (8, 0.2), (16, 0.1)]):
        fabricate(tmp_path, f"bmojo-{number}a3f0c", slots=slots, rate=rate)
    labels = [cell.label for cell in pool(collect([tmp_path]))]
    assert labels == [
        "num_eidetic=8, learning_rate=0.1",
        "num_eidetic=8, learning_rate=0.2",
        "num_eidetic=16, learning_rate=0.1",
    ]
    fabricate(tmp_path, "again/x", slots=16, rate=0.1, seed=1)
    cells = pool(collect([tmp_path]))
    assert {cell.label: len(cell.runs) for cell in cells} == dict(
        zip(labels, (1, 1, 2), strict=True)
    )
