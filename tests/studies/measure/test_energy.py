"""Energy: the account from counts of millijoules, and the calls of NVML on a library made here. No GPU has run it."""

import ctypes
import shutil
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from studies.commands.bench import lines
from studies.measure import clock
from studies.measure.clock import EnergyCounter, NoCounter, energy_of
from studies.measure.speed_record import WRAP_MJ, energy_record
from studies.measure.throughput import Variant, sample, variant_records

LIBRARY = """
#include <cstring>
extern "C" {
int nvmlInit_v2() { return FAILS_AT == 1; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    *device = (void *)0x7fff00000000;  // more than an int holds
    return FAILS_AT == 2 || strcmp(uuid, "GPU-12-ab");
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
    static unsigned long long counted = 1ull << 40;
    *energy = counted += 500;
    return FAILS_AT == 3 || device != (void *)0x7fff00000000;
}
const char *nvmlErrorString(int code) { return "no such thing"; }
}
"""


@pytest.fixture
def nvml(tmp_path, monkeypatch):
    """Makes a library that fails at one of the calls, or at none."""
    properties = SimpleNamespace(uuid="12-ab")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    def make(fails_at):
        source, library = tmp_path / "nvml.cpp", tmp_path / f"nvml{fails_at}.so"
        source.write_text(LIBRARY)
        command = ["g++", "-shared", "-fPIC", f"-DFAILS_AT={fails_at}", source, "-o", library]
        subprocess.run(command, check=True, timeout=100)
        monkeypatch.setattr(clock, "NVML", str(library))

    return make


def test_energy_of_all_rounds_together():
    """Three rounds of 40 images: 10, 20 and 30 J in 0.1, 0.2 and 0.1 s."""
    found = energy_record([(0, 10_000), (70_000, 90_000), (100_000, 130_000)], [0.1, 0.2, 0.1], 40)
    assert found["samples_j"] == [10.0, 20.0, 30.0]
    assert found["j_per_image"] == pytest.approx(60 / 120) and found["watts"] == pytest.approx(150)


def test_rounds_without_a_count_are_left_out_of_both_sums():
    found = energy_record([(0, 10_000), (None, 5), (5, None), (20_000, 40_000)], [0.1, 9, 9, 0.1], 10)
    assert found["samples_j"] == [10.0, None, None, 20.0]
    assert found["j_per_image"] == pytest.approx(30 / 20) and found["watts"] == pytest.approx(150)


def test_a_counter_that_wraps_goes_on_and_one_that_was_set_back_does_not():
    found = energy_record([(WRAP_MJ - 4_000, 6_000), (6_000, 100)], [0.1, 0.1], 1)
    assert found["samples_j"] == [10.0, None] and found["j_per_image"] == 10


@pytest.mark.parametrize("counts", [[], [(None, None)], [(7, 7)]])
def test_a_counter_that_says_nothing_gives_no_figure(counts):
    found = energy_record(counts, [1.0] * len(counts), 4)
    assert found["j_per_image"] is None and found["watts"] is None


class Counter:
    """Ten joules a look."""

    now = 0

    def millijoules(self):
        self.now += 10_000
        return self.now


def test_a_sample_is_counted_with_all_its_passes():
    seen = []
    variant = Variant("a", nn.Flatten(), repeats={4: 3, 1: 5})
    # A millisecond each: ten joules in less time than three of them would be no counter's.
    variant.model.register_forward_hook(lambda *_: time.sleep(0.001) or seen.append(counter.now))
    counter, images = Counter(), torch.zeros(4, 3, 2, 2)
    for _ in range(2):
        sample(variant, images, latency=True, counter=counter)
    assert seen == [10_000] * 3 + [20_000] * 5 + [30_000] * 3 + [40_000] * 5  # latency is outside
    (row,) = variant_records([variant], variant, 4)
    assert row["energy"]["samples_j"] == [10.0, 10.0]
    assert row["energy"]["j_per_image"] == pytest.approx(20 / 24)
    assert row["energy"]["watts"] == pytest.approx(20 / (3 * sum(row["samples_s"])))


@pytest.mark.skipif(not shutil.which("g++"), reason="the library is compiled")
def test_nvml_is_called_as_its_header_says(nvml):
    nvml(0)
    counter, said = energy_of(torch.device("cuda"))
    assert said == {"energy": {"measured": True}}
    first = counter.millijoules()
    assert first > 2**40 and counter.millijoules() == first + 500


@pytest.mark.skipif(not shutil.which("g++"), reason="the library is compiled")
@pytest.mark.parametrize(
    "fails_at, call", [(1, "nvmlInit_v2"), (2, "nvmlDeviceGetHandleByUUID"), (3, "nvmlDeviceGetTotalEnergyConsumption")]
)
def test_what_cannot_be_read_says_why(fails_at, call, nvml):
    nvml(fails_at)
    with pytest.raises(NoCounter, match=f"^{call}: no such thing$"):
        EnergyCounter(torch.device("cuda"))
    counter, said = energy_of(torch.device("cuda"))
    assert counter is None and said["energy"] == {"measured": False, "why": f"{call}: no such thing"}


def test_without_the_library_energy_is_not_measured(monkeypatch):
    monkeypatch.setattr(clock, "NVML", "libno-such-library.so.1")
    counter, said = energy_of(torch.device("cuda"))
    assert counter is None and said["energy"]["why"].startswith("NVML cannot be loaded: libno-such-library")
    assert energy_of(torch.device("cpu")) == (None, {})


def test_a_count_that_fails_later_is_none(monkeypatch):
    counter = EnergyCounter.__new__(EnergyCounter)
    monkeypatch.setattr(EnergyCounter, "_read", lambda self: (_ for _ in ()).throw(NoCounter("gone")))
    assert counter.millijoules() is None and ctypes.sizeof(ctypes.c_ulonglong) == 8


def printed(energy, of_row):
    spread = {"median": 1.0, "p5": 1.0, "p95": 1.0, "low": 1.0, "high": 1.0}
    row = {
        "variant": "none", "macs_g": {"total": 1.0}, "mac_ratio": 1.0, "images_per_s": spread, "latency_ms": spread,
        "ratio": spread, "speedup_per_mac_ratio": 1.0, "ratio_to_random": None, "flags": [],
    }  # fmt: skip
    record = {
        "backbone": "b", "task": "classification", "img_size": 32, "batch_size": 1, "dtype": "float32",
        "mode": "eager", "scenario": "offline", "device": "cuda", "device_name": "a card", "num_threads": 1,
        "rounds": 7, "dense": "none", "unreachable": [], "variants": [row | of_row],
    }  # fmt: skip
    return "\n".join(lines([record | energy]))


def test_a_reader_sees_energy_or_why_there_is_none():
    text = printed({"energy": {"measured": True}}, {"energy": {"j_per_image": 0.0125, "watts": 420.0}})
    assert "J/image" in text and "0.0125" in text and "420.0" in text
    text = printed({"energy": {"measured": False, "why": "no NVML"}}, {})
    assert "energy: not measured (no NVML)" in text and "J/image" not in text
    assert "J/image" not in printed({}, {}) and "energy" not in printed({}, {})
