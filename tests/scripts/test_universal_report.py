"""The report of regret, from runs with known numbers."""

import json

import pytest

from scripts.universal import report

PAGE = """# Page

<!-- markov -->
old
<!-- end of markov -->

Between.

<!-- programs -->
<!-- end of programs -->
"""


def fabricate(folder, name, seed, excess):
    """A run that needs ``excess`` of the oracle's bits more."""
    run = folder / f"{name}-seed{seed}"
    (run / "evaluation").mkdir(parents=True)
    summary = {
        "status": "finished", "command": "bmojo train x", "parameters": 1300,
        "embedding_parameters": 300, "state_bytes": 1000, "key_value_bytes": 500,
        "evaluations": [],
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "speed.jsonl").write_text("")
    rows = []
    for length in (256, 1024):
        for group, oracle in ((1, 50.0), (2, 150.0), (None, 100.0)):
            bits = oracle * length / 256
            rows.append(
                {"length": length, "group": group, "oracle": bits, "model": bits * (1 + excess),
                 "source": bits, "regret": bits * excess, "excess": excess, "stderr": 1.0,
                 "sequences": 4, "near": excess <= 0.05}
            )  # fmt: skip
    (run / "evaluation/regret.json").write_text(json.dumps({"rows": rows}))


def test_tables_verdicts_and_the_page(tmp_path, capsys):
    runs, out, records = (tmp_path / name for name in ("runs", "out", "records"))
    out.mkdir()
    (out / "universal.md").write_text(PAGE)
    for seed, excess in enumerate((0.02, 0.04)):
        fabricate(runs / "markov", "bmojo", seed, excess)
        fabricate(runs / "markov", "mamba", seed, 3 * excess)
        fabricate(runs / "markov", "hybrid", seed, 2 * excess)
    folders = ["--runs", str(runs), "--out", str(out), "--records", str(records)]
    report.main(folders)
    text = capsys.readouterr().out
    assert (
        "| bmojo | 2 | 1,000 | 1,500 | 100.0 (100.0–100.0) | 103.0 (102.0–104.0) | "
        "3.0 (2.0–4.0) | 3.0 (2.0–4.0) | yes |"
    ) in text
    assert "| 6.0 (4.0–8.0) | 1 of 2 seeds |" in text
    assert "| 9.0 (6.0–12.0) | no |" in text
    assert "| regret of mamba | 4.5 (3.0–6.0) | 13.5 (9.0–18.0) |" in text
    assert "Within 5% of the oracle's loss: bmojo\n" in text
    assert "random programs: no run that" in text
    page = (out / "universal.md").read_text()
    assert "old" not in page
    assert page.startswith("# Page\n\n<!-- markov -->\n\n| model | seeds |")
    assert "\n\nBetween.\n\n<!-- programs -->\n<!-- end of programs -->\n" in page
    assert set(json.loads((records / "universal_markov.json").read_text())) == {
        f"{name}-seed{seed}" for name in ("bmojo", "hybrid", "mamba") for seed in (0, 1)
    }
    assert (out / "universal.png").exists()
    report.main(folders)
    assert (out / "universal.md").read_text() == page


def test_nothing_measured_is_told(tmp_path):
    with pytest.raises(SystemExit, match="no measured runs"):
        report.main([f"--{name}={tmp_path}" for name in ("runs", "out", "records")])
