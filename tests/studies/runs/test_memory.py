"""The largest memory of a run is its own, also behind a larger one in the same process."""

import torch

from studies.runs import memory
from studies.runs.memory import peak_mib, reset_peak


def peak_of(mib):
    reset_peak("cpu")
    held = torch.ones(int(mib * 2**18))
    del held
    return peak_mib("cpu")


def test_a_small_run_behind_a_large_one_reports_less():
    small, large, again = peak_of(1), peak_of(600), peak_of(1)
    assert 590 < large - small < 660 and abs(again - small) < 60


def test_where_it_cannot_be_known_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "nothing")
    reset_peak("cpu")
    assert peak_mib("cpu") is None
