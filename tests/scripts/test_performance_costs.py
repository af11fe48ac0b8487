"""The cost model counts what the models count, and names what it assumes."""

import pytest

from scripts.performance import chips, costs, counts, work


@pytest.fixture(scope="module")
def found():
    return {name: costs.described(name, "130m") for name in ("transformer", "mamba", "bmojo")}


def test_work_of_a_step_grows_as_the_formulas_say(found):
    short, long = (work.training(found["transformer"], length) for length in (2048, 4096))
    # 12 layers, scores and mixing over 1024 more tokens on average, four passes.
    more = 4 * 65_536 * 12 * 4 * 768 * 1024
    assert long.matrix - short.matrix == pytest.approx(more)
    assert long.moved == short.moved
    mamba = work.training(found["mamba"], 2048)
    (mixer, *_), count = counts.mixers(found["mamba"]), len(counts.mixers(found["mamba"]))
    scan = mixer.d_inner * (7 * 16 + 3 + 8)
    assert mamba.vector == pytest.approx(4 * 65_536 * count * scan)
    assert mamba.matrix == pytest.approx(
        4 * 65_536 * (found["mamba"].flops_per_token(2048) - count * scan)
    )


def test_decoding_reads_weights_once_and_every_row_s_state(found):
    one, many = (work.decoding(found["bmojo"], 2048, rows) for rows in (1, 3))
    recurrent, key_values = found["bmojo"].memory(2048)
    assert many.moved - one.moved == pytest.approx(2 * (2 * recurrent + key_values))
    assert one.moved > 2 * found["bmojo"].parameters
    assert many.matrix == 3 * one.matrix


def test_scores_are_of_what_is_seen(found):
    bmojo, transformer = (counts.mixers(found[name])[0] for name in ("bmojo", "transformer"))
    slots = bmojo.config.num_fading + bmojo.config.num_eidetic
    assert counts.scores(bmojo, 32_768) == 12 * (512 + slots)
    assert counts.scores(transformer, 99) == 12 * 50
    assert counts.scores(transformer, 99, last=True) == 12 * 99
    assert counts.scores(counts.mixers(found["mamba"])[0], 99) == 0


def test_time_is_the_longer_of_products_and_memory():
    chip = chips.Chip("chip", 100.0, 10.0, 1.0, "", "")
    shares = chips.Shares(0.5, 1.0, 0.5)
    assert chips.Work(100.0, 3.0, 10.0).seconds(chip, shares) == (2.0, 6.0, "matrix")
    assert chips.Work(100.0, 0.0, 30.0).seconds(chip, shares) == (3.0, 0.0, "memory")


def test_the_page_says_estimate_and_what_is_assumed(monkeypatch, tmp_path):
    monkeypatch.setattr(costs, "MODELS", ("mamba", "transformer"))
    path = tmp_path / "new" / "costs.md"
    costs.main(f"--sizes 130m --lengths 64 128 --matrix-share .4 --out {path}".split())
    text = path.read_text()
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert all("ESTIMATE" in line for line in headings)
    assert "| share of the matrix peak | 0.4 | assumed, not measured |" in text
    assert "data sheet" in text
    assert "| mamba | 64 to 128 |" in text
    assert "| transformer | 128 |" in text
