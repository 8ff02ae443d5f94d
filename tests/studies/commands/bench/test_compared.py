"""Two timings against each other: on records whose answer is known, and on real ones."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from command_line import study

from studies.commands.bench import compare, compared_lines
from studies.measure.speed_record import variant_record


@dataclass
class Session:
    """Records with noise of 1 % on samples, all made by one clock; `slow`: how much slower a variant is than before."""

    seed: int
    clock: float = 1.0
    slow: float = 1.0
    device: str = "some cpu"
    rounds: int = 20
    quiet: bool = True

    def record(self, batch_size=4, dtype="float32", **more):
        rng = np.random.default_rng([self.seed, batch_size])
        seconds = {"none": 2.0, "mine@0.5": 1.0 * self.slow, "other@0.5": 1.0}
        samples = {name: s * self.clock * np.exp(0.01 * rng.normal(size=self.rounds)) for name, s in seconds.items()}
        return {
            "schema": 1, "status": "done", "backbone": "b", "task": "classification", "img_size": 32, "dtype": dtype,
            "batch_size": batch_size, "mode": "eager", "num_threads": 2, "device_name": self.device, "dense": "none",
            "variants": [variant_record(name, own.tolist(), samples["none"].tolist(), [], batch_size, None, [])
                         for name, own in samples.items()],
            "self_check": {"quiet": self.quiet},
            "provenance": {"finished": "2026-01-01T00:00:00", "packages": {"torch": "2.9"}, "commit": "abcdef0123456"},
        } | more  # fmt: skip

    def write(self, folder, **settings):
        record = self.record(**settings)
        path = folder / "speed" / f"b{record['batch_size']}-{record['dtype']}" / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record))
        return folder


def verdicts(found):
    rows = found["settings"][0]["variants"]
    return {row["variant"]: [row[key] and row[key]["verdict"] for key in ("images_per_s", "speedup")] for row in rows}


def test_only_what_differs_is_called_different(tmp_path):
    """Five per cent slower, on noise of one; the clock of the second session is 10 % slower, which speedups do not
    see."""
    a, b = Session(0).write(tmp_path / "a"), Session(1, slow=1.05).write(tmp_path / "b")
    found = compare(a, b)
    assert verdicts(found) == {
        "none": ["not told apart", None], "mine@0.5": ["faster", "faster"],
        "other@0.5": ["not told apart", "not told apart"],
    }  # fmt: skip
    row = found["settings"][0]["variants"][1]["images_per_s"]
    assert row["low"] < 1.05 < row["high"] and row["median"] == pytest.approx(1.05, rel=0.01)
    assert verdicts(compare(b, a))["mine@0.5"] == ["slower", "slower"]
    late = Session(2, clock=1.1).write(tmp_path / "late")
    assert verdicts(compare(late, a))["other@0.5"] == ["slower", "not told apart"]
    text = "\n".join(compared_lines(found))
    assert f"A: {a}, some cpu, torch 2.9, commit abcdef0123" in text and "5 comparisons" in text
    assert f"{row['median']:.3f} [{row['low']:.3f}, {row['high']:.3f}] faster" in text


def test_few_rounds_and_noisy_machines_tell_nothing(tmp_path):
    a, few = Session(0).write(tmp_path / "a"), Session(1, slow=2, rounds=5).write(tmp_path / "few")
    assert verdicts(compare(a, few))["mine@0.5"] == ["not told apart"] * 2
    noisy = Session(1, slow=2, quiet=False).write(tmp_path / "noisy")
    found = compare(a, noisy)
    assert verdicts(found)["mine@0.5"] == ["too noisy to tell"] * 2
    assert "a self-check found the machine too noisy" in "\n".join(compared_lines(found))


def test_the_same_settings_are_compared_and_others_left_out(tmp_path):
    a, b = (Session(seed).write(tmp_path / name, batch_size=1) for seed, name in ((0, "a"), (1, "b")))
    Session(0).write(a, batch_size=16)
    Session(1).write(b, batch_size=16, dtype="bfloat16")
    assert [one["batch"] for one in compare(a, b)["settings"]] == [1]
    best = [Session(0).write(tmp_path / f"best{n}", batch_size=n, batch_search={}) for n in (4, 8)]
    (setting,) = compare(*best)["settings"]
    assert setting["batch"] == "best" and setting["batch_size"] == [4, 8]
    rate = setting["variants"][0]["images_per_s"]["median"]
    assert rate == pytest.approx(0.5, rel=0.02)  # half the images in the same time


@pytest.mark.parametrize("change", ["device", "setting", "empty", "folder of one record"])
def test_what_cannot_be_compared_is_named(tmp_path, change):
    a = Session(0).write(tmp_path / "a")
    if change == "folder of one record":
        path = a / "speed" / "b4-float32"
        assert verdicts(compare(path, path / "result.json"))["mine@0.5"] == ["not told apart"] * 2
        return
    b = tmp_path / "b"
    if change == "device":
        Session(1, device="a gpu").write(b)
        assert verdicts(compare(a, b, across=True))["mine@0.5"] == ["not told apart"] * 2
        said = f"other devices: {a} on some cpu and {b} on a gpu; --across-devices"
    elif change == "setting":
        Session(1).write(b, batch_size=2)
        said = "no setting in common .*32 px, batch 4, float32, eager, 2 threads.*batch 2"
    else:
        said = f"{b} holds no record of bench"
    with pytest.raises(ValueError, match=said):
        compare(a, b)


def test_real_records_at_the_command_line(tmp_path):
    for name in ("a", "b"):
        args = ("--backbone", "scenes_vit", "--reducers", "random", "--batch-sizes", "1", "--rounds", "6")
        done = study("bench", *args, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    done = study("bench", "compare", tmp_path / "a", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    (setting,) = json.loads(done.stdout)["settings"]
    assert [row["variant"] for row in setting["variants"]] == ["none", "random@0.5"]
    assert setting["variants"][1]["speedup"]["low"] < setting["variants"][1]["speedup"]["high"]
    same = study("bench", "compare", tmp_path / "a", tmp_path / "a")
    assert "1.000 [" in same.stdout and "faster" not in same.stdout and "slower" not in same.stdout
    other = study("bench", "compare", tmp_path / "a", tmp_path / "nowhere")
    assert other.returncode == 2 and "nowhere holds no record of bench" in other.stderr
