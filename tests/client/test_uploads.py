"""What callers hold becomes bytes that anybody's numpy and safetensors can read."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load

from ihvp.client.uploads import Upload, tensor_bytes
from ihvp.errors import InvalidTensor

DTYPES = st.sampled_from(["f4", "f8", ">f4", ">i8", "i4", "u1", "?"])


def read_npy(content: bytes) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array


@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
def test_an_array_keeps_its_numbers_and_its_shape(array: np.ndarray[Any, Any]) -> None:
    back = read_npy(tensor_bytes(array))
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    assert back.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")


@given(hnp.arrays(DTYPES, hnp.array_shapes(max_dims=3, max_side=4)))
def test_a_transposed_view_is_written_as_it_is_seen(array: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(read_npy(tensor_bytes(array.T)), array.T)
    np.testing.assert_array_equal(load(tensor_bytes({"a": array.T}))["a"], array.T)


def test_files_are_little_endian_and_rows_first() -> None:
    header = tensor_bytes(np.asfortranarray(np.ones((2, 3), ">f8")))[:128]
    assert b"'descr': '<f8'" in header
    assert b"'fortran_order': False" in header


def test_torch_tensors_are_arrays_too() -> None:
    import torch

    back = load(tensor_bytes({"weight": torch.arange(6.0).reshape(2, 3).T}))
    np.testing.assert_array_equal(back["weight"], np.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize("value", [[object()], ["text"], [1 + 2j], [[1.0], [1.0, 2.0]], None])
def test_what_holds_no_plain_numbers_is_refused(value: object) -> None:
    with pytest.raises(InvalidTensor):
        tensor_bytes(value)


def test_the_same_bytes_have_the_same_digest_however_they_are_held(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    path = tmp_path / "a file"
    path.write_bytes(content)
    reading, writing = os.pipe()
    os.write(writing, content[:1000])
    os.close(writing)
    expected = "sha256:" + hashlib.sha256(content).hexdigest()
    with path.open("rb") as file, os.fdopen(reading, "rb") as pipe:
        for source in (content, path, str(path), file):
            upload = Upload.of(source)
            assert (upload.digest, upload.size) == (expected, len(content))
            assert b"".join(upload.chunks()) == content
            assert b"".join(upload.chunks()) == content  # a second attempt sends all of it again
        piped = Upload.of(pipe)
    assert b"".join(piped.chunks()) == content[:1000]


def test_an_open_file_is_read_from_where_it_stands() -> None:
    file = io.BytesIO(b"header|payload")
    file.seek(7)
    upload = Upload.of(file)
    assert b"".join(upload.chunks()) == b"payload"
    assert upload.size == 7
    assert file.tell() == 7
