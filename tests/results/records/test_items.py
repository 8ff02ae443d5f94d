"""Pictures of test items beside the records: whole, or named as broken."""

from pathlib import Path

import numpy as np
import pytest
import synthetic_records

from results.pages.report import build
from results.records.items import FILE, Items, read_items, write_items
from results.records.store import CorruptRecord

PNG, JPEG = b"\x89PNG\r\n\x1a\n" + bytes(9), b"\xff\xd8\xff" + bytes(5)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert read_items(tmp_path) == Items()
    write_items(tmp_path, Items(["an ant", "<b>"], {40: JPEG, 3: PNG}))
    found = read_items(tmp_path)
    assert found.pictures == {3: PNG, 40: JPEG} and list(found.classes) == ["an ant", "<b>"]
    assert [found.name(number) for number in (0, 1, 2, -1)] == ["an ant", "<b>", "2", "–"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": np.frombuffer(b"<svg onload='x'>", np.uint8), "end": np.array([16])}, "neither PNG nor JPEG"),
        ({"files": np.zeros(17, dtype=np.float32)}, "not what pictures of items are"),
        ({"end": np.array([17, 18])}, "not what pictures of items are"),
        ({"item": np.array(["x"])}, "not what pictures of items are"),
        ({"classes": np.array([{}], dtype=object)}, "npz"),  # nothing is unpickled
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, np.ndarray], said: str) -> None:
    whole = {"item": np.array([3]), "end": np.array([17]), "files": np.frombuffer(PNG, np.uint8)}
    np.savez(tmp_path / FILE, **whole | {"classes": np.array(["a"])} | changes)
    with pytest.raises(CorruptRecord, match=said):
        read_items(tmp_path)


def test_a_report_is_made_without_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    study = tmp_path / "a"
    synthetic_records.write_study(study, methods=("none", "cropr"), budgets=(0.5,), num_items=50, speed=False)
    (study / FILE).write_bytes(b"PK torn")
    assert any("broken record" in note and FILE in note for note in build([study]).notes)
