"""Event files say what the logs say, whatever became of the runs meanwhile."""

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic_records

from results.records.store import append_line
from studies import events
from studies.commands.run import Options, configs_of, prepare
from studies.events import PATTERN, Events, check_installed

pytest.importorskip("tensorboard", reason="pip install -e '.[tensorboard]'")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """As TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.glob(PATTERN)):
        read = EventAccumulator(str(file))
        read.Reload()
        for tag in read.Tags()["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in read.Scalars(tag))
        for tag in read.Tags()["tensors"]:
            values = ((event.step, float(make_ndarray(event.tensor_proto))) for event in read.Tensors(tag))
            found.setdefault(tag, []).extend(values)
    return {tag: sorted(values) for tag, values in found.items()}


def log(folder: Path, *epochs: int, loss: float = 1.0) -> None:
    for epoch in epochs:
        append_line(folder / "log.jsonl", {
            "epoch": epoch, "epochs": 4, "train_loss": loss / epoch, "train_seconds": 1.0, "images_per_s": 50.0,
            "val": {"top1": 0.25 * epoch},
        })  # fmt: skip


def test_only_what_is_new_is_added(tmp_path: Path) -> None:
    follower = Events([tmp_path, tmp_path / "not there yet"])
    follower.follow(now=True)
    assert not list(tmp_path.glob(PATTERN)) and not (tmp_path / "not there yet").exists()
    log(tmp_path, 1, 2)
    follower.follow()  # too soon
    assert not list(tmp_path.glob(PATTERN))
    follower.follow(now=True)
    log(tmp_path, 3)
    follower.follow(now=True)
    follower.follow(now=True)
    assert len(list(tmp_path.glob(PATTERN))) == 2
    found = scalars(tmp_path)
    assert found.keys() == {"train/loss", "train/images_per_s", "val/top1"}
    assert found["train/loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert found["val/top1"] == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_epochs_that_a_killed_run_lost_are_not_there_twice(tmp_path: Path) -> None:
    follower = Events([tmp_path])
    log(tmp_path, 1, 2, 3)
    follower.follow(now=True)
    (tmp_path / "log.jsonl").unlink()
    log(tmp_path, 1, 2, loss=8.0)
    follower.follow(now=True)
    assert scalars(tmp_path)["train/loss"] == [(1, 8.0), (2, 4.0)]
    Events([tmp_path]).follow(now=True)  # the next command
    assert scalars(tmp_path)["train/loss"] == [(1, 8.0), (2, 4.0)]


def test_a_finished_run_has_its_test_metrics(tmp_path: Path) -> None:
    folder = synthetic_records.write_run(tmp_path, "cropr", 0.5, 0, np.arange(50) < 40)
    log(folder, 1, 2)
    Events([folder]).follow(now=True)
    found, final = scalars(folder), json.loads((folder / "result.json").read_text())["metrics"]["final"]
    assert found["test/top1"] == [(6, pytest.approx(0.8))] and final["epoch"] == 6
    assert found["test/loss"] == [(6, pytest.approx(final["loss"]))] and "test/epoch" not in found
    assert len(found["train/loss"]) == 2


def test_a_missing_package_is_named_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setattr(events, "find_spec", lambda name: None)
    options = Options(reducers="none", quick=True, out=tmp_path / "a", tensorboard=True)
    with pytest.raises(ValueError, match=r"pip install 'cropr-study\[tensorboard\]'"):
        prepare(configs_of(options), options)
    assert not (tmp_path / "a").exists()
