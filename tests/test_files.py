"""File systems that lack what the library asks of them."""

import errno
import fcntl
import os

import pytest
from rich.console import Console

from bmojo.data.text.prepare import lock
from bmojo.errors import UserError
from bmojo.training.run_dir import RunDir
from tests.storage.made import writer


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMFILE])
@pytest.mark.parametrize(
    "take",
    [lambda path: RunDir(path).lock(), lambda path: lock(path, False, Console()), writer],
    ids=["run", "text", "store"],
)
def test_a_lock_that_cannot_be_had_is_told_in_a_line(tmp_path, monkeypatch, take, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError) as caught, take(tmp_path / "here"):
        pass
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / 'here'}: ") and "\n" not in told
    assert f"cannot be written ({os.strerror(number)}); " in told
