"""Files that are whole or absent: written to a temporary name, flushed, then renamed. Standard library only."""

import json
import os
import stat
import uuid
from pathlib import Path
from typing import Any

__all__ = [
    "CorruptRecord",
    "Unreadable",
    "append_line",
    "path_of",
    "printable",
    "read_bytes",
    "read_json",
    "read_lines",
    "write_bytes",
    "write_json",
    "write_text",
]


class CorruptRecord(ValueError):
    """A record cannot be read: cut off in the middle, or not what its name says."""

    def __init__(self, path: Path | str, reason: object):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = Path(path), str(reason)


class Unreadable(CorruptRecord):
    """A file that is there and cannot be read now: no permission, no regular file, a network that is away. What it
    holds may be whole."""


def path_of(text: str) -> Path:
    """The path that somebody typed, ~ and ~name expanded. Raises ValueError where that home is unknown."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text}: {error}") from None


def printable(text: str) -> str:
    """`text` without the bytes of file names that are no UTF-8, which Python keeps as halves of pairs."""
    return text.encode(errors="backslashreplace").decode()


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` by `data`, or leaves it as it was and raises OSError (full disk, no permission)."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(aside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:  # Ctrl-C as well: nobody else will remove the temporary file
        aside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, obj: Any) -> None:
    """Replaces `path` by `obj` as indented JSON. NaN is written as NaN, which Python reads back.

    Raises:
        OSError: the disk is full or not writable; the old file is as it was.
        TypeError: `obj` is not made of plain values; nothing was written.
    """
    write_text(path, json.dumps(obj, indent=1) + "\n")


def read_json(path: Path | str) -> Any:
    """The value in `path`. Raises CorruptRecord where it is no complete JSON, FileNotFoundError where it is absent."""
    data = read_bytes(path)
    try:
        return _value(data)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise CorruptRecord(path, f"not complete JSON ({error})") from None


def append_line(path: Path, obj: Any) -> None:
    """Adds `obj` as one line of JSON. A line that an earlier process left torn is cut off first, so only the last line
    of a log can ever be torn. One writer at a time."""
    line = json.dumps(obj).encode() + b"\n"
    with open(path, "ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(line)


def _value(data: bytes) -> Any:
    value = json.loads(data)
    if rb"\ud" in data.lower():  # halves of a pair, which no text can hold, would fail wherever they are printed
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_bytes(path: Path | str) -> bytes:
    """What a regular file holds. Raises FileNotFoundError, Unreadable."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unreadable(path, "no regular file")
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:  # a directory, a link to itself, no permission
        raise Unreadable(path, error.strerror or error) from error


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe that nobody writes to is not waited for


def read_lines(path: Path) -> list[Any]:
    """The values of a log written by `append_line`, without a torn last line; empty where the file is absent.

    Raises:
        CorruptRecord: a line before the last one is no JSON.
    """
    try:
        lines = read_bytes(path).split(b"\n")[:-1]  # what follows the last newline is torn, or nothing
    except FileNotFoundError:
        return []
    try:
        return [_value(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise CorruptRecord(path, f"a line is no JSON ({error})") from None
