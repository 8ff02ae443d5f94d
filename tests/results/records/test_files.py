"""Files are whole or absent, on a full disk and after a kill as well."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from results.records.files import CorruptRecord, append_line, read_json, read_lines, write_json


def test_write_and_read_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, 2.5, None], "name": "Übung"})
    assert read_json(tmp_path / "a.json") == {"x": [1, 2.5, None], "name": "Übung"}
    assert os.listdir(tmp_path) == ["a.json"]


def test_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    # A limit on file size is a write that fails in the middle, as on a full disk, and needs no special file system.
    write_json(tmp_path / "a.json", {"old": True})
    code = """
        import errno, resource, signal, sys
        from pathlib import Path
        from results.records.files import write_json
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_json(Path(sys.argv[1]), {"new": "x" * 100_000})
        except OSError as error:
            print(errno.errorcode[error.errno])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "EFBIG\n"
    assert read_json(tmp_path / "a.json") == {"old": True}
    assert os.listdir(tmp_path) == ["a.json"]


def test_values_that_are_no_json_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 1, 10, 30])
def test_half_written_record_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(json.dumps({"schema": 1, "metrics": {"top1": 0.5}}).encode()[:keep])
    with pytest.raises(CorruptRecord, match="result.json") as caught:
        read_json(path)
    assert caught.value.path == path and isinstance(caught.value, ValueError)


def test_bytes_that_are_no_text_are_corrupt(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"x": "\xff\xfe"}')
    with pytest.raises(CorruptRecord):
        read_json(tmp_path / "a.json")


def test_torn_log_line_is_ignored_and_then_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert read_lines(log) == []
    append_line(log, {"epoch": 1})
    append_line(log, {"epoch": 2})
    log.write_bytes(log.read_bytes()[:-4])  # killed in the middle of the line
    assert read_lines(log) == [{"epoch": 1}]
    append_line(log, {"epoch": 2, "again": True})
    assert read_lines(log) == [{"epoch": 1}, {"epoch": 2, "again": True}]


def test_log_with_a_bad_line_in_the_middle_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(CorruptRecord, match="log.jsonl"):
        read_lines(tmp_path / "log.jsonl")
