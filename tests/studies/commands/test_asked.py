"""What an option adds to the methods that were named."""

import pytest

from studies.commands.reading.asked import random_at_counts
from studies.models.methods import parse


@pytest.mark.parametrize(
    ("named", "added"),
    [
        ("none,random", []),
        ("evit:keep=0.5", ["random:like=evit:keep=0.5,rest=fuse"]),
        ("tome,tome:trained_at=1", ["random:like=tome", "random:like=tome,trained_at=1"]),  # each against its kind
        ("tome,random:like=tome", []),
        ("dynamicvit:trained_at=0.65", ["random:like=dynamicvit,trained_at=0.65"]),
    ],
)
def test_random_pruning_at_the_counts_of_each_that_chooses(named, added):
    assert [str(method) for method in random_at_counts(parse(named, False))] == added
