"""`bmojo memory` for the store of a read-out."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from bmojo.cli import app
from bmojo.data.text.tokenizers import ByteTokenizer
from bmojo.storage import MatchedIdentity, MatchedStore

TEXTS = {"letters": b"the treaty of Nijmegen; the treaty of Ghent", "treaties": b"the treaty of"}


@pytest.fixture
def bmojo():
    def run(*arguments, **options):
        return CliRunner().invoke(app, ["memory", *map(str, arguments)], **options)

    return run


@pytest.fixture
def prose(tmp_path):
    coder = ByteTokenizer()
    known = dict(tokenizer=coder.fingerprint, tokenizer_spec=coder.spec, description="runs/prose")
    return fill(tmp_path / "s", **known)


def fill(path, **known):
    identity = MatchedIdentity(**dict(model="ab" * 32, tokenizer="", width=2, n=2) | known)
    with MatchedStore.open(path, identity, write=True) as store:
        for name, text in TEXTS.items():
            ids = np.frombuffer(text, np.uint8).astype(int)
            gram = ids[:-1] + 256 * np.append(0, ids[:-2])
            store.begin(name)
            store.append(np.ones((len(ids) - 1, 2)), ids[1:], gram, whole=np.arange(len(gram)) > 0)
    return path


def test_stats(bmojo, prose):
    result = bmojo("stats", prose)
    assert result.exit_code == 0, result.output
    for words in ("entries    54", "of 2 tokens", "runs/prose", "42  letters", "12  treaties"):
        assert words in result.stdout
    assert json.loads(bmojo("stats", prose, "--json").stdout)["sources"]["letters"] == 42


def test_search(bmojo, prose):
    result = bmojo("search", prose, "treaty of", "--limit", "1")
    assert result.exit_code == 0, result.output
    first, more = result.stdout.splitlines()
    assert first == '12  letters:12  "he treaty of" then " "'
    assert "1 more" in more
    assert "no entry comes behind it" in bmojo("search", prose, "peace").stdout


def test_ids_without_a_tokenizer(bmojo, tmp_path):
    path = fill(tmp_path / "s")
    result = bmojo("search", path, "121 32 111")
    assert "11  letters:11  104 101 32" in result.stdout
    assert bmojo("search", path, "Nij").exit_code == 2


def test_show(bmojo, prose):
    facts = json.loads(bmojo("show", prose, 36, "--json").stdout)
    assert (facts["source"], facts["position"], facts["previous"]) == ("letters", 36, 12)
    assert facts["answer"] == '" "' and facts["key"] == [1, 1]
    assert "treaty of" in bmojo("show", prose, 36).stdout
    result = bmojo("show", prose, 999)
    assert result.exit_code == 2 and "has no entry 999" in result.output


def test_forget(bmojo, prose):
    assert "give --source" in bmojo("forget", prose, "--older-than", "1d").output
    assert "did you mean 'letters'" in bmojo("forget", prose, "--source", "leters").output
    result = bmojo("forget", prose, "--source", "letters", input="n\n")
    assert "Forget 42 of 54" in result.output
    result = bmojo("forget", prose, "--source", "letters", "--yes")
    assert "42 entries forgotten" in result.stdout
    assert json.loads(bmojo("stats", prose, "--json").stdout)["entries"] == 12


def test_verify(bmojo, prose):
    result = bmojo("verify", prose)
    assert result.exit_code == 0 and "54 entries, all as they were written" in result.stdout
    key = prose / "000001" / "key"
    key.write_bytes(bytes(8) + key.read_bytes()[8:])
    result = bmojo("verify", prose)
    assert result.exit_code == 1 and "key: rows 0 to 53 have changed" in result.stdout


@pytest.mark.parametrize("command", ["policy", "compact"])
def test_it_has_no_bounds(bmojo, prose, command):
    result = bmojo(command, prose)
    assert result.exit_code == 2 and "has no bounds" in result.output
