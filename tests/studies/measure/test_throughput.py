"""The record of a timing: what is in it and how it hangs together. How fast anything is, is not tested."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from tiny_models import place
from torch import nn

from cropr.vit import ReducedViT
from results.records.frames import speed_frame
from results.records.store import Records
from studies.measure import NotCompiled, clock
from studies.measure.clock import peak_memory_mib
from studies.measure.modes import compile_errors, num_threads, running
from studies.measure.sdpa import sdpa_backend, sdpa_backends
from studies.measure.speed_record import ratio_spread
from studies.measure.throughput import check_record, flag_speedup, measure, round_orders

SETTING = dict(dense="none", img_size=16, batch_size=4, device="cpu", rounds=5, min_seconds=0.0)


def tiny_vit():
    return VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=2, num_classes=5)


def variants():
    models = {"none": ReducedViT(tiny_vit())}
    for name, options in (("cropr", {"rate": 4}), ("tome", {"r": 4})):
        vit = tiny_vit()
        models[f"{name}@0.7"] = ReducedViT(vit, place(name, vit, 16, **options)).fold()
    return models


class OutOfMemory(nn.Module):
    """Fails from its `first` pass on, as the allocator does."""

    def __init__(self, first: int, message: str = "[enforce fail] DefaultCPUAllocator: can't allocate memory"):
        super().__init__()
        self.left, self.message = first, message

    def forward(self, images):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError(self.message)
        return images.mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def record():
    return measure(variants(), **SETTING)


def test_record_is_what_the_report_reads(record):
    assert json.loads(json.dumps(record)) == record
    assert [v["variant"] for v in record["variants"]] == ["none", "cropr@0.7", "tome@0.7"]
    assert (record["batch_size"], record["img_size"], record["rounds"], record["compiled"]) == (4, 16, 5, False)
    assert (record["mode"], record["scenario"]) == ("eager", "offline")
    assert record["num_threads"] == torch.get_num_threads() and record["device_name"]
    frame = speed_frame([as_study(record)])
    figures = [
        f"{key}_{part}" for key in ("images_per_s", "ratio_to_dense", "latency_ms") for part in ("p5", "median", "p95")
    ]
    assert np.isfinite(frame[figures].to_numpy()).all()
    assert (frame["peak_memory_mib"] > 4 * 3 * 16 * 16 * 4 / 2**20).all()  # the images alone


class Holding(nn.Module):
    """Holds three times its input at once, next to a weight as large."""

    def __init__(self, images):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(images))

    def forward(self, images):
        x = images + 1
        x = x + 1  # twice, then once
        return torch.cat([x, x])


def test_peak_memory_is_that_of_weights_images_and_what_a_pass_holds():
    images = torch.zeros(2, 3, 128, 128)
    with torch.inference_mode():
        found = peak_memory_mib(Holding(images), images)
        assert found * 2**20 == pytest.approx(5 * images.nbytes, rel=0.01)
        assert peak_memory_mib(nn.Identity(), images) * 2**20 == images.nbytes


def test_work_of_another_process_is_measured_and_that_of_this_one_is_not(tmp_path, monkeypatch):
    """What /proc/stat says goes up by what this process took and 3 s of others, over a tenth of a second."""
    mine, ticks = min(os.sched_getaffinity(0)), os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(clock, "STAT", tmp_path / "stat")

    def write(own_s, others_s):
        busy, idle = round((own_s + others_s) * ticks), round(time.perf_counter() * ticks)
        (tmp_path / "stat").write_text(
            f"cpu  9 9 9 9 9 9 9 9 9 9\ncpu{mine} {busy} 0 0 {idle} 7 0 0 0 {busy} 0\n"
            f"cpu4095 {idle} 0 0 0 0 0 0 0 0 0\nintr 5 6\n"
        )

    write(0, 0)
    load, began, own = clock.OtherLoad(), time.perf_counter(), clock.own_seconds()
    while clock.own_seconds() - own < 0.1:
        sum(range(1000))
    write(clock.own_seconds() - own, 3)
    assert load.cores() == pytest.approx(3 / (time.perf_counter() - began), rel=0.1)
    write(clock.own_seconds() - own, 0)
    assert load.cores() < 0.5
    write(0, 0)
    assert load.cores() is None  # counters that stand still
    (tmp_path / "stat").unlink()
    assert load.cores() is None


def test_the_record_holds_the_load(record, monkeypatch, tmp_path):
    assert record["load_of_others"] is None or 0 <= record["load_of_others"] <= len(os.sched_getaffinity(0)) + 0.5
    monkeypatch.setattr(clock, "STAT", tmp_path / "none")
    assert measure({"none": ReducedViT(tiny_vit())}, **SETTING)["load_of_others"] is None


def test_figures_follow_from_samples(record):
    samples = {v["variant"]: v["samples_s"] for v in record["variants"]}
    for v in record["variants"]:
        own = np.array(v["samples_s"])
        assert len(own) == record["rounds"] and (own > 0).all()
        assert v["ratio"] == ratio_spread(samples["none"], own)
        assert v["images_per_s"]["median"] * np.median(own) == pytest.approx(record["batch_size"])
        assert v["images_per_s"]["p5"] <= v["images_per_s"]["median"] <= v["images_per_s"]["p95"]
    assert record["variants"][0]["ratio"] == {
        "median": 1.0,
        "p5": 1.0,
        "p95": 1.0,
        "low": None,
        "high": None,
    }  # of 5 rounds


def test_rounds_go_on_until_ratios_are_known_or_time_is_over():
    models, setting = variants(), SETTING | {"rounds": None}
    known = measure(models, **setting, precision=1e6, latency=False)
    assert (known["rounds"], known["stopped_by"], known["precision"]) == (25, "precision", 1e6)
    for row in known["variants"]:
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"] and len(row["samples_s"]) == 25
    over = measure(models, **setting, max_seconds=0.0, latency=False)
    assert (over["rounds"], over["stopped_by"]) == (1, "time")
    said = "its ratio has no interval in 1 rounds, as 0 s allow, not the 2 % asked for"
    assert [said in row["flags"] for row in over["variants"]] == [False, True, True]


@pytest.mark.parametrize("part, value", [("ratio", 1.5), ("images_per_s", 1.0)])
def test_figures_that_do_not_follow_are_refused(record, part, value):
    broken = json.loads(json.dumps(record))
    check_record(broken)
    broken["variants"][1][part]["median"] *= 1.001
    with pytest.raises(ValueError, match="cropr@0.7"):
        check_record(broken)
    short = json.loads(json.dumps(record))
    short["variants"][2]["samples_s"].pop()
    with pytest.raises(ValueError, match="tome@0.7: 4 samples in 5 rounds"):
        check_record(short)


def test_every_round_runs_every_variant_in_an_order_of_its_own():
    orders = round_orders(6, 40)
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert orders == round_orders(6, 40) != round_orders(6, 40, seed=1)
    assert len({tuple(order) for order in orders}) > 30
    assert {order[0] for order in orders} == set(range(6))


def test_variants_are_interleaved():
    seen = []
    models = {name: nn.Sequential(nn.Flatten(), nn.Linear(768, 2)) for name in ("none", "a", "b")}
    said = []
    for name, model in models.items():
        model.register_forward_hook(lambda *_, name=name: seen.append(name) if said and "round" in said[-1] else None)
    measure(models, **SETTING, latency=False, progress=said.append)
    names = list(models)
    assert seen == [names[i] for order in round_orders(3, 5) for i in order]
    assert said == ["warm-up none", "warm-up a", "warm-up b", *(f"round {i}/5" for i in range(1, 6))]


def test_dense_is_required_and_dtypes_are_known():
    models = variants()
    with pytest.raises(ValueError, match="'none'"):
        measure({"cropr": models["cropr@0.7"]}, **SETTING)
    with pytest.raises(ValueError, match="'float8'; valid: float32"):
        measure(models, **SETTING, dtype="float8")


@pytest.mark.parametrize("first", [0, 1, 60])
def test_out_of_memory_is_flagged_and_others_go_on(first):
    """In the very first pass, in the warm-up, or in the middle of the rounds."""
    models = {"none": nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), "large": OutOfMemory(first)}
    record = measure(models, **SETTING | {"rounds": 100}, latency=False)
    dense, large = record["variants"]
    assert len(dense["samples_s"]) == 100 and dense["ratio"]["median"] == 1.0
    assert "out of memory" in large["flags"] and len(large["samples_s"]) < 100
    assert large["images_per_s"]["median"] is None and large["ratio"]["median"] is None
    assert np.isnan(speed_frame([as_study(record)])["ratio_to_dense_median"][1])


def test_other_errors_are_errors():
    with pytest.raises(RuntimeError, match="shapes"):
        measure({"none": OutOfMemory(1, "shapes cannot be multiplied")}, **SETTING)


def test_what_cannot_be_compiled_is_said_and_is_no_lack_of_memory(monkeypatch):
    """Errors of dynamo and inductor are RuntimeErrors, too."""

    class Unknown(nn.Module):
        def forward(self, images):
            raise RuntimeError("no such thing\non line 7")

    model = Unknown()
    said = "^other cannot be compiled: no such thing; leave out --mode compiled$"
    with pytest.raises(NotCompiled, match=said), compile_errors("other", "compiled"):
        model(None)
    monkeypatch.setenv("CXX", "no-compiler-of-this-name")
    said = r"thing; no C\+\+ compiler is installed \(no-compiler-of-this-name\)"
    with pytest.raises(NotCompiled, match=said), compile_errors("other", "graphs"):
        model(None)
    with pytest.raises(torch.OutOfMemoryError), compile_errors("other", "compiled"):
        raise torch.OutOfMemoryError("a lot")
    with pytest.raises(RuntimeError, match="^no such thing"), compile_errors("other", "eager"):
        model(None)


def test_more_variants_than_dynamo_would_compile_by_itself():
    """Twelve models at two batch sizes; the compiler behind dynamo is left out, it takes minutes."""
    import torch._dynamo as dynamo

    def run_all():
        for width in range(1, 13):
            model = torch.compile(nn.Sequential(nn.Linear(2, width), nn.ReLU()), dynamic=False, backend="eager")
            for batch in (2, 1):
                model(torch.zeros(batch, 2))

    with running("compiled"):
        run_all()
    with pytest.raises(dynamo.exc.FailOnRecompileLimitHit), dynamo.config.patch(fail_on_recompile_limit_hit=True):
        run_all()
    dynamo.reset()


def test_one_image_at_a_time_is_latency_and_throughput_alike():
    record = measure({"none": variants()["none"]}, **SETTING | {"batch_size": 1})
    (row,) = record["variants"]
    assert record["scenario"] == "single stream"
    for own, other in (("median", "median"), ("p5", "p95"), ("p95", "p5")):
        assert row["latency_ms"][own] == pytest.approx(1e3 / row["images_per_s"][other])


def test_a_model_without_a_form_is_flagged_and_others_go_on():
    models = variants() | {"blind": OutOfMemory(100)}  # no ReducedViT, so nothing that could be exported
    models["blind"].vit = nn.Module()
    models["blind"].vit.head = nn.Identity()
    models["blind"].reads_truth = True
    with num_threads(1):
        record = measure(models, **SETTING | {"rounds": 2}, mode="onnx", latency=False)
    dense, *_, blind = record["variants"]
    assert dense["images_per_s"]["median"] > 0 and blind["images_per_s"]["median"] is None
    assert blind["flags"][0].startswith("cannot be exported as onnx: a reducer reads the labels")
    assert (record["mode"], record["num_threads"], record["scenario"]) == ("onnx", 1, "offline")


def test_latency_can_be_left_out():
    record = measure({"none": variants()["none"]}, **SETTING, latency=False)
    assert record["variants"][0]["latency_ms"] == {"median": None, "p5": None, "p95": None}


def test_speedup_beyond_the_macs_is_flagged():
    assert flag_speedup(1.8, 1.5) == flag_speedup(1.875, 1.5) == flag_speedup(None, 1.5) == []
    assert flag_speedup(1.9, 1.5) == ["speedup 1.90x is more than 1.25 times what its MACs save (1.50x)"]


def test_attention_kernel_is_the_one_that_runs(record):
    """The name that PyTorch gives is checked against the operator that a profile of the same call shows."""
    operator = {
        "flash_attention": "_scaled_dot_product_flash_attention_for_cpu",
        "math": "_scaled_dot_product_attention_math",
    }
    q = torch.zeros(1, 2, 197, 64)
    for masked in (False, True):
        bias = torch.zeros(1, 1, 1, 197) if masked else None
        with torch.inference_mode(), torch.profiler.profile() as profile:
            nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=bias)
        ran = {event.key.removeprefix("aten::") for event in profile.key_averages()}
        assert operator[sdpa_backend("cpu", torch.float32, masked)] in ran
    assert record["sdpa_backend"] == sdpa_backend("cpu", torch.float32, False, num_tokens=17, head_dim=16)
    assert sdpa_backends(nn.Flatten(), q) == "unfused"


def as_study(record):
    return Records(Path("study"), speeds={"cpu-b4": record})
