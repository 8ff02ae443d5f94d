"""The reader of .npz files against numpy's own."""

import io
import zipfile
import zlib

import numpy as np
import pytest

from results.records.arrays import arrays_of

ARRAYS = {
    "item": np.arange(5), "flags": np.array([[True, False], [False, False]]),
    "half": np.linspace(0, 1, 7, dtype=np.float16),
    "columns": np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)), "none": np.zeros((0, 3), np.float32),
    "said": np.array("Gaussian noise, σ 0.1"), "one": np.array(3.5), "big": np.arange(3, dtype=">i4"),
    "words": np.array(["a", "bcd"]), "empty": np.array(""),
}  # fmt: skip


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_are_those_of_numpy(write):
    file = io.BytesIO()
    write(file, **ARRAYS)
    found = arrays_of(file.getvalue())
    file.seek(0)
    with np.load(file) as expected:
        assert [*found] == expected.files
        for name, array in found.items():
            assert array.dtype == expected[name].dtype and array.shape == expected[name].shape, name
            assert np.array_equal(array, expected[name]), name


def test_the_other_version_of_the_header_is_read_too():
    array, file, whole = io.BytesIO(), io.BytesIO(), np.arange(12.0).reshape(3, 4)
    np.lib.format.write_array(array, whole, version=(2, 0))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("item.npy", array.getvalue())
    assert np.array_equal(arrays_of(file.getvalue())["item"], whole)


def test_what_is_cut_off_changed_or_pickled_is_refused():
    file = io.BytesIO()
    np.savez_compressed(file, **ARRAYS)
    data = file.getvalue()
    for keep in (0, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(zipfile.BadZipFile):
            arrays_of(data[:keep])
    wrong = bytearray(data)
    wrong[60] ^= 255
    with pytest.raises((zipfile.BadZipFile, zlib.error)):
        arrays_of(bytes(wrong))
    file = io.BytesIO()
    np.savez(file, item=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="objects"):
        arrays_of(file.getvalue())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("item.npy", b"no array at all")
    with pytest.raises(ValueError):
        arrays_of(file.getvalue())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        whole = io.BytesIO()
        np.save(whole, np.arange(5))
        archive.writestr("item.npy", whole.getvalue()[:-3])
    with pytest.raises(ValueError):
        arrays_of(file.getvalue())
