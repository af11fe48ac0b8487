"""The table of sizes of stores, for a small one."""

from scripts.storage import scale


def test_a_small_store(tmp_path, monkeypatch, capsys):
    command = "scale --entries 700 --heads 2 --queries 8 --nearest 2 --exact-below 256"
    monkeypatch.setattr("sys.argv", [*command.split(), "--directory", str(tmp_path)])
    scale.main()
    head, row = (line.split() for line in capsys.readouterr().out.splitlines())
    values = dict(zip(head, row, strict=True))
    assert values["entries"] == "700" and int(values["indexed"]) > 256
    assert float(values["recall"]) > 0.95
    assert int(values["rows"]) > 2 * 2 * 16 * 4
