"""What has moved: on records whose answer is known, and on real ones of a small model."""

import json

import numpy as np
import pytest
import torch
from benchmarks import drift

from studies.measure.speed_record import variant_record


def write(folder, seed, slow=1.0, clock=1.0, rounds=20, quiet=True):
    """Dense and two variants with noise of 1 %; `clock`: all of them, `slow`: the first variant alone."""
    rng = np.random.default_rng(seed)
    seconds = {"none": 2.0, "moved@0.5": slow, "other@0.5": 1.0}
    samples = {name: s * clock * np.exp(0.01 * rng.normal(size=rounds)) for name, s in seconds.items()}
    record = {
        "schema": 1, "status": "done", "backbone": "b", "task": "classification", "img_size": 32, "dtype": "float32",
        "batch_size": 16, "mode": "eager", "num_threads": 2, "device_name": "some cpu", "dense": "none",
        "variants": [variant_record(name, own.tolist(), samples["none"].tolist(), [], 16, None, [])
                     for name, own in samples.items()],
        "self_check": {"quiet": quiet},
        "provenance": {"finished": "2026-01-01T00:00:00", "packages": {"torch": "2.9"}, "commit": "abcdef0123456"},
    }  # fmt: skip
    path = folder / "speed" / "b16" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    return folder


def said(tmp_path, **fresh):
    return list(drift.report(write(tmp_path / "fresh", 1, **fresh), write(tmp_path / "baseline", 0)))


def test_a_ratio_that_moved_is_named_and_no_other(tmp_path):
    head, moved, other, verdict, _ = said(tmp_path, slow=1.1)
    assert "now / baseline (abcdef0123, torch 2.9)" in head
    assert moved.startswith("b, 32 px, batch 16, moved@0.5: 0.9") and moved.endswith("slower")
    assert other.endswith("not told apart")
    assert verdict == "1 of 2 moved: moved@0.5 at batch 16 is slower"


def test_a_ratio_that_rose_is_named_too(tmp_path):
    assert said(tmp_path, slow=0.9)[-2] == "1 of 2 moved: moved@0.5 at batch 16 is faster"


def test_times_are_not_compared(tmp_path):
    """A machine of half the speed, whose ratios are the same."""
    assert said(tmp_path, clock=2.0)[-2] == "none of 2 moved"


def test_few_rounds_and_a_noisy_machine_tell_nothing(tmp_path):
    assert said(tmp_path / "few", slow=2.0, rounds=5)[-2] == "none of 2 moved"
    lines = said(tmp_path / "noisy", slow=2.0, quiet=False)
    assert "too noisy to tell" in lines[1] and lines[-2] == "none of 0 moved; of 2 nothing can be said"


def test_without_a_baseline_it_says_how_to_make_one(tmp_path, capsys, monkeypatch):
    (tmp_path / "some-other-cpu").mkdir()
    monkeypatch.setattr(drift, "measure", None)  # nothing is measured
    assert drift.main(["--baselines", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"no baseline of {drift.kind()} (there are: some-other-cpu)" in text and "drift.py --keep" in text


def test_a_baseline_is_not_replaced_and_is_of_a_clean_commit(tmp_path, capsys, monkeypatch):
    from studies.runs import provenance

    monkeypatch.setattr(drift, "measure", None)
    monkeypatch.setattr(provenance, "_git", lambda *args: " M cli.py")
    assert drift.main(["--keep", "--baselines", str(tmp_path)]) == 2
    assert "differs from its commit" in capsys.readouterr().err
    (tmp_path / drift.kind()).mkdir()
    assert drift.main(["--keep", "--baselines", str(tmp_path)]) == 2
    assert "is there already; remove it first" in capsys.readouterr().err


def test_a_kind_names_cpu_extension_and_threads(monkeypatch):
    from studies.measure import clock

    monkeypatch.setattr(clock, "device_name", lambda device: "Some(R) CPU 9")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert drift.kind() == "some-r-cpu-9-avx512-2-threads"


def test_a_real_measurement_beside_another(tmp_path, capsys, monkeypatch):
    measure, made = drift.measure, []
    monkeypatch.setattr(
        drift, "measure", lambda out, rounds: made.append(rounds) or measure(out, rounds, "scenes_vit", "1")
    )
    drift.measure(tmp_path / drift.kind(), 6)
    assert drift.main(["--baselines", str(tmp_path)]) == 0 and made == [6, drift.ROUNDS]
    text = capsys.readouterr().out
    assert text.count("scenes_vit, 32 px, batch 1, ") == 5 and "moved" in text


@pytest.mark.parametrize("path", sorted(drift.BASELINES.glob("*")), ids=lambda path: path.name)
def test_stored_baselines_are_of_clean_commits_and_of_both_batches(path):
    records = [json.loads(file.read_text()) for file in path.glob("speed/*/result.json")]
    assert sorted(record["batch_size"] for record in records) == [1, 16]
    for record in records:
        assert not record["provenance"]["dirty"] and len(record["variants"]) == 6
        assert path.name.endswith(f"-{record['num_threads']}-thread" + "s" * (record["num_threads"] > 1))
