"""items.npz of a study: small pictures of some of its test items, and the names of its classes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from results.records.files import printable
from results.records.store import CorruptRecord, read_predictions, write_bytes

__all__ = ["FILE", "Items", "kind_of", "read_items", "write_items"]

FILE = "items.npz"
_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Items:
    """What is kept of them, for whoever has the records and not the data set."""

    classes: Sequence[str] = ()
    pictures: Mapping[int, bytes] = field(default_factory=dict)  # by number of the test item: a PNG or JPEG file

    def name(self, number: int) -> str:
        """Of a class: its number where no name is known, and of none (-1) a dash."""
        if number < 0:
            return "–"
        return printable(self.classes[number]) if number < len(self.classes) else str(number)


def kind_of(picture: bytes) -> str | None:
    """Media type by how the file begins; None for anything but PNG and JPEG."""
    return next((kind for magic, kind in _KINDS.items() if picture.startswith(magic)), None)


def read_items(directory: Path) -> Items:
    """Of a study; without pictures where it has none. Raises CorruptRecord."""
    import numpy as np

    try:
        arrays = read_predictions(directory, FILE)
    except FileNotFoundError:
        return Items()
    path = directory / FILE
    try:
        files = arrays["files"].astype(np.uint8, casting="safe").tobytes()
        ends, numbers = arrays["end"].tolist(), arrays["item"].tolist()
        starts = [0, *ends][:-1]
        pictures = {int(number): files[a:b] for number, a, b in zip(numbers, starts, ends, strict=True)}
        classes = [str(name) for name in arrays["classes"].tolist()]
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptRecord(path, f"not what pictures of items are ({error})") from None
    if wrong := next((number for number, picture in pictures.items() if kind_of(picture) is None), None):
        raise CorruptRecord(path, f"the picture of item {wrong} is neither PNG nor JPEG")
    return Items(classes, pictures)


def write_items(directory: Path, items: Items) -> None:
    """Replaces items.npz. Raises OSError."""
    import numpy as np

    numbers = sorted(items.pictures)
    files = [items.pictures[number] for number in numbers]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, item=np.array(numbers, dtype=np.int64), end=np.cumsum([len(file) for file in files], dtype=np.int64),
        files=np.frombuffer(b"".join(files), dtype=np.uint8), classes=np.array(list(items.classes), dtype=np.str_),
    )  # fmt: skip
    write_bytes(directory / FILE, buffer.getvalue())
