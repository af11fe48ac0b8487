"""A writer is killed at any moment; what it had published is there."""

import random

import pytest

from scripts.storage import kills


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills(tmp_path, count):
    chance = random.Random(count)
    for _ in range(count):
        published = kills.kill(tmp_path / "s", chance.uniform(0.1, 0.8))
        kills.check(tmp_path / "s", published)
