"""npy and safetensors are read as numpy and safetensors write them, and nothing else is believed."""

from __future__ import annotations

import io
import json
import pickle
import struct
from array import array
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ihvp.errors import InvalidTensor
from ihvp.tensors import (
    ITEM_SIZE,
    all_finite,
    integer_range,
    npy_header,
    read_headers,
    read_metadata,
    read_values,
    select_tensor,
    write_safetensors,
)

DTYPES = sorted(set(ITEM_SIZE) - {"bfloat16"})
READABLE = sorted(set(DTYPES) - {"float16"})


def npy(values: np.ndarray[Any, Any]) -> io.BytesIO:
    file = io.BytesIO()
    np.save(file, values)
    return file


def st_file(tensors: dict[str, np.ndarray[Any, Any]], metadata: dict[str, str] | None = None) -> io.BytesIO:
    return io.BytesIO(safetensors.numpy.save(tensors, metadata))


def raw_safetensors(table: Any, payload: bytes = b"") -> io.BytesIO:
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    return io.BytesIO(struct.pack("<Q", len(header)) + header + payload)


numeric = st.sampled_from(READABLE).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@given(numeric)
def test_npy_is_read_as_numpy_wrote_it(values: np.ndarray[Any, Any]) -> None:
    file = npy(np.ascontiguousarray(values).reshape(values.shape))
    (header,) = read_headers(file)
    assert (header.dtype, header.shape) == (str(values.dtype), values.shape)
    read = np.array(read_values(file, header), dtype=values.dtype)
    np.testing.assert_array_equal(read, values.ravel())


@given(st.dictionaries(st.text(min_size=1, max_size=8), numeric, min_size=1, max_size=4))
def test_safetensors_is_read_as_its_library_wrote_it(tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    tensors = {name: np.ascontiguousarray(v).reshape(v.shape) for name, v in tensors.items() if name != "__metadata__"}
    file = st_file(tensors)
    headers = {header.name: header for header in read_headers(file)}
    assert set(headers) == set(tensors)
    for name, values in tensors.items():
        assert (headers[name].dtype, headers[name].shape) == (str(values.dtype), values.shape)
        read = np.array(read_values(file, headers[name]), dtype=values.dtype)
        np.testing.assert_array_equal(read, values.ravel())


def test_what_is_written_here_is_read_by_the_safetensors_library() -> None:
    file = io.BytesIO()
    values = array("f", [1.5, -2.0, 3.25, 0.0, 5.0, 6.0])
    write_safetensors(file, {"rhs": (values, (2, 3)), "n": (array("q", [7]), ())}, {"made": "here"})
    read = safetensors.numpy.load(file.getvalue())
    np.testing.assert_array_equal(read["rhs"], np.array(values, dtype=np.float32).reshape(2, 3))
    assert read["n"].dtype == np.int64
    assert read["n"] == 7
    assert read_metadata(file) == {"made": "here"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 1, 2)])
def test_npy_headers_are_numpys(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, dtype=dtype)
    read = np.load(io.BytesIO(npy_header(dtype, shape) + values.tobytes()))
    assert (read.dtype, read.shape) == (values.dtype, values.shape)
    assert len(npy_header(dtype, shape)) % 64 == 0


def test_metadata_comes_back() -> None:
    assert read_metadata(st_file({"x": np.zeros(1)}, {"ihvp": "{}"})) == {"ihvp": "{}"}
    assert read_metadata(npy(np.zeros(1))) == {}


def test_range_and_finiteness_over_more_than_one_chunk() -> None:
    labels = np.arange(200_000, dtype=np.int64)
    labels[150_000] = -7
    file = npy(labels)
    (header,) = read_headers(file)
    assert integer_range(file, header) == (-7, 199_999)
    values = np.zeros(400_000, dtype=np.float32)
    file = npy(values)
    (header,) = read_headers(file)
    assert all_finite(file, header)
    for fault in (np.nan, np.inf, -np.inf):
        values[-1] = fault
        assert not all_finite(npy(values), header)


class TestSelection:
    headers = read_headers(st_file({"inputs": np.zeros(2), "targets": np.zeros(3)}))
    only = read_headers(npy(np.zeros(4)))

    def test_the_named_one(self) -> None:
        assert select_tensor(self.headers, "targets", "inputs").shape == (3,)

    def test_the_one_named_after_its_role(self) -> None:
        assert select_tensor(self.headers, None, "inputs").shape == (2,)

    def test_the_only_one(self) -> None:
        assert select_tensor(self.only, None, "rhs").shape == (4,)

    def test_none_of_several_lists_their_names(self) -> None:
        with pytest.raises(InvalidTensor, match=r"no tensor or column 'rhs'.*Given: inputs, targets.*#<name>"):
            select_tensor(self.headers, None, "rhs")

    def test_a_name_that_is_not_there_is_not_replaced_by_another(self) -> None:
        with pytest.raises(InvalidTensor, match="no tensor or column 'y'"):
            select_tensor(self.only, "y", "rhs")


GOOD_ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}

LIES: dict[str, tuple[io.BytesIO, str]] = {
    "empty": (io.BytesIO(), "too short"),
    "text": (io.BytesIO(b"hello, this is not a tensor at all"), "neither npy nor safetensors"),
    "header beyond the file": (io.BytesIO(struct.pack("<Q", 2**62) + b"{}"), f"{2**62} bytes of header"),
    "header is not JSON": (raw_safetensors(b"{{{{{{{{"), "not JSON"),
    "header is a list": (raw_safetensors([1]), "must be an object"),
    "deeply nested header": (raw_safetensors(b"[" * 100_000), "not JSON"),
    "a name twice": (raw_safetensors(b'{"x": 1, "x": 2}'), "not JSON"),
    "offsets outside": (raw_safetensors({"x": GOOD_ENTRY}, b"1234"), "outside the file"),
    "offsets reversed": (raw_safetensors({"x": GOOD_ENTRY | {"data_offsets": [8, 0]}}, b"1" * 8), "outside the file"),
    "offsets negative": (raw_safetensors({"x": GOOD_ENTRY | {"data_offsets": [-8, 0]}}, b"1" * 8), "data_offsets"),
    "overlapping": (raw_safetensors({"x": GOOD_ENTRY, "y": GOOD_ENTRY}, b"1" * 8), "follow each other"),
    "trailing bytes": (raw_safetensors({"x": GOOD_ENTRY}, b"1" * 12), "does not end"),
    "shape beyond bytes": (raw_safetensors({"x": GOOD_ENTRY | {"shape": [3]}}, b"1" * 8), "12 bytes for float32"),
    "shape 2^63": (raw_safetensors({"x": GOOD_ENTRY | {"shape": [2**63]}}, b"1" * 8), "none negative or huge"),
    "shape negative": (raw_safetensors({"x": GOOD_ENTRY | {"shape": [-2]}}, b"1" * 8), "none negative or huge"),
    "shape true": (raw_safetensors({"x": GOOD_ENTRY | {"shape": [True, 2]}}, b"1" * 8), "whole numbers"),
    "unknown dtype": (raw_safetensors({"x": GOOD_ENTRY | {"dtype": "F8"}}, b"1" * 8), "dtype that is not read here"),
    "no dtype": (raw_safetensors({"x": {"shape": [2]}}, b"1" * 8), "needs dtype, shape"),
    "truncated npy": (io.BytesIO(npy(np.zeros(9)).getvalue()[:-4]), "may have been cut short"),
    "npy without header": (io.BytesIO(b"\x93NUMPY\x01\x00"), "ends within its header"),
    "npy with code for a header": (io.BytesIO(b"\x93NUMPY\x01\x00\x10\x00__import__('os')"), "cannot be read"),
    "npy of the future": (io.BytesIO(b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16), "version of npy"),
    "big-endian": (npy(np.zeros(3, dtype=">f4")), "little-endian"),
    "complex": (npy(np.zeros(3, dtype="c8")), "dtype that is not read"),
    "Fortran order": (npy(np.asfortranarray(np.zeros((3, 2)))), "ascontiguousarray"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_caught(lie: str) -> None:
    file, message = LIES[lie]
    with pytest.raises(InvalidTensor, match=message):
        read_headers(file)


def test_a_pickle_is_named_as_one() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidTensor, match="pickle and is never read"):
        read_headers(file)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refuse(data)


@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(
        data.draw(
            st.sampled_from(
                [
                    npy(np.arange(6, dtype="<f4")).getvalue(),
                    st_file({"a": np.zeros(3), "b": np.ones((2, 2))}).getvalue(),
                ]
            )
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


def read_or_refuse(data: bytes) -> None:
    file = io.BytesIO(data)
    try:
        headers = read_headers(file)
        read_metadata(file)
    except InvalidTensor:
        return
    for header in headers:
        assert 0 <= header.start <= header.start + header.nbytes <= len(data)


def test_a_header_that_begins_as_a_pickle_does_is_none() -> None:
    # 640 is b"\x80\x02" and six zeros; pickles of protocol 2 begin with the same two bytes.
    table = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(640)
    [header] = read_headers(io.BytesIO(struct.pack("<Q", 640) + table + bytes(4)))
    assert (header.name, header.start) == ("x", 648)


@pytest.mark.parametrize(
    "content", [pickle.dumps({"weight": [1.0]}, protocol=p) for p in (2, 3, 4, 5)] + [b"PK\x03\x04" + bytes(100)]
)
def test_a_pickle_in_disguise_is_named_as_one(content: bytes) -> None:
    with pytest.raises(InvalidTensor, match="is a pickle or an archive of pickles"):
        read_headers(io.BytesIO(content))
