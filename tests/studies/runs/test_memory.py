"""The largest memory of a run is its own, also behind a larger one in the same process."""

import subprocess
import sys

import torch

from studies.runs.memory import PeakMemory


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


def test_freed_memory_stays_with_the_process():
    """Ten tensors that come and go: the kernel hands out their pages once, not each time."""
    code = (
        "import resource, sys, torch; from studies.runs.memory import keep_freed_memory\n"
        "if sys.argv[1] == 'keep': assert keep_freed_memory()\n"
        "for i in range(10): torch.ones(2**22)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    )
    faults = {how: int(subprocess.check_output([sys.executable, "-c", code, how])) for how in ("keep", "give back")}
    assert faults["keep"] < faults["give back"] - 2 * 2**24 / 4096, faults
