"""`bmojo memory`."""

import json
import sqlite3
from unittest import mock

import numpy as np
import pytest
from typer.testing import CliRunner

from bmojo.cli import app
from bmojo.cli.stored_text import decoded
from bmojo.data.text.tokenizers import ByteTokenizer
from bmojo.storage import Policy, Store
from tests.generation.tokenizers import KINDS, make
from tests.storage.made import entries, identity

TEXT = b"the treaty of Nijmegen was signed in the year 1678; "


@pytest.fixture
def bmojo():
    def run(*arguments, **options):
        return CliRunner().invoke(app, ["memory", *map(str, arguments)], **options)

    return run


def written(path, policy=None, **changes):
    """A store with a text in two sources and two layers."""
    ids = np.frombuffer(TEXT, np.uint8)
    count, context = len(ids), np.full((len(ids), 12), -1)
    for place in range(count):
        part = ids[max(place - 11, 0) : place + 1]
        context[place, 12 - len(part) :] = part
    with Store.open(path, identity(**changes), policy, write=True) as store:
        with mock.patch("time.time", return_value=1000.0):
            store.write(0, entries(count, token=ids, context=context), "letters")
        store.advance(count)
        store.write(2, entries(count, 1, token=ids, context=context), "treaties")
    return count


@pytest.fixture
def prose(tmp_path):
    coder = ByteTokenizer()
    written(
        tmp_path / "s",
        tokenizer=coder.fingerprint,
        tokenizer_spec=coder.spec,
        description="runs/prose, step 7",
    )
    return tmp_path / "s"


def test_stats(bmojo, prose):
    result = bmojo("stats", prose)
    assert result.exit_code == 0, result.output
    for words in (
        "52 tokens",
        "letters",
        "treaties",
        "runs/prose, step 7",
        "bytes",
        "2 of width 8",
    ):
        assert words in result.stdout
    facts = json.loads(bmojo("stats", prose, "--json").stdout)
    assert facts["entries"] == 104 and facts["sources"] == {"letters": 52, "treaties": 52}
    assert [layer["entries"] for layer in facts["layers"]] == [52, 52]
    assert facts["layers"][0]["age_tokens"] == [52, 52]


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_keeps_the_blank_before_its_first_word(kind):
    coder = make(kind)
    ids = coder.encode("the cat sat on the mats")
    assert decoded(ids, coder, True) == coder.decode(ids)
    cuts = [n for n in range(1, len(ids)) if "\ufffd" not in coder.decode(ids[:n])]
    for at in cuts:
        text, whole = decoded(ids[at:], coder), coder.decode(ids)
        if kind == "BPE with word ends":  # its blanks belong to the token before
            assert text.lstrip() == whole[len(coder.decode(ids[:at])) :].lstrip()
        else:
            assert coder.decode(ids[:at]) + text == whole


def test_search(bmojo, prose):
    result = bmojo("search", prose, "treaty of", "--limit", "3")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    place = TEXT.index(b"treaty of") + len("treaty of") - 1
    assert lines[0].startswith(f"{place}  layer 0  letters:{place}  innovation ")
    assert lines[0].endswith('"he treaty of"')
    assert len(lines) == 4 and lines[3] == "5 more; --limit shows them"
    assert "no entry contains it" in bmojo("search", prose, "peace").stdout


def test_search_for_ids(bmojo, tmp_path):
    written(tmp_path / "s")
    ids = " ".join(str(byte) for byte in b"Nij")
    result = bmojo("search", tmp_path / "s", ids)
    assert result.exit_code == 0 and ids in result.stdout.splitlines()[0]
    result = bmojo("search", tmp_path / "s", "Nij")
    assert result.exit_code == 2 and "is not ids" in result.output


def test_a_tokenizer_that_is_gone(bmojo, tmp_path):
    written(tmp_path / "s", tokenizer="ab", tokenizer_spec="tokenizers:gone.json")
    result = bmojo("search", tmp_path / "s", "116")
    assert result.exit_code == 0 and "note: showing ids" in result.stderr


def test_show(bmojo, prose):
    result = bmojo("show", prose, 60)
    assert result.exit_code == 0 and '"the treat"' in result.stdout
    assert "treaties" in result.stdout
    facts = json.loads(bmojo("show", prose, 60, "--json").stdout)
    assert facts["context"] == '"the treat"' and facts["layer"] == 2
    assert np.shape(facts["key"]) == (2, 8)
    result = bmojo("show", prose, 999)
    assert result.exit_code == 2 and "has no entry 999" in result.output


def count(bmojo, path):
    return json.loads(bmojo("stats", path, "--json").stdout)["entries"]


def test_forget(bmojo, prose):
    assert bmojo("forget", prose).exit_code == 2
    result = bmojo("forget", prose, "--source", "leters", "--yes")
    assert result.exit_code == 2 and "did you mean 'letters'?" in result.output
    assert "no age" in bmojo("forget", prose, "--older-than", "long", "--yes").output
    assert "no entry 999" in bmojo("forget", prose, "--id", 999, "--yes").output
    result = bmojo("forget", prose, "--source", "treaties", input="n\n")
    assert result.exit_code == 0 and count(bmojo, prose) == 104
    result = bmojo("forget", prose, "--source", "treaties", "--id", 60, "--id", 61, input="y\n")
    assert result.exit_code == 0 and "2 entries forgotten" in result.stdout
    result = bmojo("forget", prose, "--older-than", "2h", "--yes")
    assert "52 entries forgotten" in result.stdout and count(bmojo, prose) == 50
    assert bmojo("verify", prose).exit_code == 0


def test_policy(bmojo, prose):
    shown = bmojo("policy", prose)
    assert shown.exit_code == 0 and "capacity = None" in shown.stdout
    result = bmojo("policy", prose, "capacity=20", "half_life_tokens=1.5e3")
    assert result.exit_code == 0, result.output
    assert "capacity = 20\nhalf_life_tokens = 1500.0" in result.stdout
    assert count(bmojo, prose) == 40
    assert bmojo("policy", prose).stdout == result.stdout
    assert "capacity = None" in bmojo("policy", prose, "capacity=None").stdout
    for word, error in (
        ("capasity=3", "did you mean 'capacity'?"),
        ("capacity=few", "'few' is not a number"),
        ("floor", "'' is not a number"),
        ("capacity=0", "Policy.capacity: 0 is not positive"),
    ):
        wrong = bmojo("policy", prose, word)
        assert wrong.exit_code == 2 and error in wrong.output


def test_compact(bmojo, tmp_path):
    written(tmp_path / "s", Policy(half_life_seconds=10.0))
    result = bmojo("compact", tmp_path / "s")
    assert result.exit_code == 0, result.output
    assert "52 entries forgotten, 52 left" in result.stdout
    assert bmojo("verify", tmp_path / "s").exit_code == 0


def test_verify(bmojo, prose):
    result = bmojo("verify", prose)
    assert result.exit_code == 0 and "104 entries" in result.stdout
    with sqlite3.connect(prose / "entries.sqlite") as rows:
        rows.execute("UPDATE entries SET key = zeroblob(length(key)) WHERE id = 7")
    rows.close()
    result = bmojo("verify", prose)
    assert result.exit_code == 1 and "entry 7 has changed since it was written" in result.stdout


@pytest.mark.parametrize("command", ["stats", "compact", "verify"])
def test_no_store(bmojo, tmp_path, command):
    result = bmojo(command, tmp_path / "s")
    assert result.exit_code == 2 and "no store is here" in result.output
    assert not (tmp_path / "s").exists()


def test_a_store_in_use(bmojo, prose):
    with Store.open(prose, write=True):
        result = bmojo("compact", prose)
        assert result.exit_code == 2 and "writes to this store" in result.output
        assert bmojo("stats", prose).exit_code == 0


DAMAGE = [
    "UPDATE entries SET clock = 1e300 WHERE id = 7",
    "UPDATE entries SET time = 9e999, uses = 1 WHERE id = 7",
    "UPDATE entries SET token = cast(x'fffe' AS TEXT) WHERE id = 7",
    "UPDATE entries SET written = 'x' WHERE id = 7",
    "UPDATE entries SET born = 'x' WHERE id = 7",
    "UPDATE entries SET source = x'ff' WHERE id = 7",
    "UPDATE entries SET context = x'00' WHERE id = 7",
    "UPDATE counters SET value = 'x' WHERE name = 'clock'",
    "DELETE FROM counters",
    "CREATE TRIGGER t AFTER DELETE ON entries BEGIN DELETE FROM counters; END",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = 'CREATE TABLE x' || char(10)",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_ends_every_command_with_a_line(bmojo, prose, damage):
    rows = sqlite3.connect(prose / "entries.sqlite")
    rows.executescript(damage).close()
    rows.close()
    words = {"stats": ["--json"], "verify": [], "search": ["the"], "show": [7], "policy": []}
    codes = []
    for command, rest in (words | {"forget": ["--id", 7, "--yes"], "compact": []}).items():
        result = bmojo(command, prose, *rest)
        assert isinstance(result.exception, SystemExit | None), (command, result.exception)
        codes.append(result.exit_code)
        if result.exit_code == 2:
            assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert set(codes) <= {0, 1, 2} and max(codes) > 0


def test_an_entry_of_a_number_beyond_all(bmojo, prose):
    result = bmojo("show", prose, 10**30)
    assert (result.exit_code, f"has no entry {10**30};" in result.stderr) == (2, True)
