"""The largest memory of a run is its own, also behind a larger one in the same process."""

import torch

from studies.memory import PeakMemory


def peak_of(mib):
    memory = PeakMemory("cpu")
    held = torch.ones(int(mib * 2**18))
    del held
    return memory.mib()


def test_a_small_run_behind_a_large_one_reports_less():
    small, large, again = peak_of(1), peak_of(600), peak_of(1)
    assert 590 < large - small < 660 and abs(again - small) < 60


def test_where_it_cannot_be_known_there_is_none(tmp_path):
    assert PeakMemory("cpu", tmp_path / "nothing").mib() is None
