"""Files that are no tensors, or lie about them: what a careless or hostile caller may upload."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from typing import Any

import numpy as np
import safetensors.numpy
from hypothesis import strategies as st

__all__ = ["BOMBS", "damaged_files"]

NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 4, 8, 12, 24, 2**31, 2**40, 2**63 - 1, 2**63, 2**64, True, 1.5, 1e300, "2"])
DTYPES = st.sampled_from(["F32", "F64", "F16", "BF16", "I64", "BOOL", "U8", "F8", "", None, 4])


def npy(array: Any, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def zipped(size: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("x.npy", npy(np.zeros(size // 8)))
    return file.getvalue()


def prefixed(header: bytes, payload: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, or with this lie about its length."""
    return struct.pack("<Q", len(header) if length is None else length) + header + payload


def npy_said(header: str, payload: bytes = b"", length: int | None = None) -> bytes:
    text = header.encode()
    return (
        b"\x93NUMPY\x01\x00" + struct.pack("<H", (len(text) if length is None else length) & 0xFFFF) + text + payload
    )


WHOLE = [
    npy(np.arange(6, dtype="<f4")),
    npy(np.ones((10, 2), "<f4")),
    npy(np.zeros((2, 3), "<i8")),
    safetensors.numpy.save({"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)}),
    safetensors.numpy.save({"inputs": np.ones((10, 2), np.float32), "targets": np.ones((10, 1), np.float32)}),
]

BOMBS = {
    "an npz of 64 MiB of zeros": zipped(64 * 2**20),
    "a gzip of 64 MiB of zeros": gzip.compress(bytes(64 * 2**20)),
    "a gzip of an npy": gzip.compress(npy(np.ones(3, np.float32))),
    "a header nested a million deep": prefixed(b"[" * 1_000_000),
    "a header of objects nested deep": prefixed(b'{"a":' * 200_000),
    "a header of a number with a million digits": prefixed(b'{"x":{"shape":[' + b"9" * 1_000_000 + b"]}}"),
    "a header said to be 2^63 bytes": prefixed(b"{}", length=2**63),
    "a header said to be 100 MB": prefixed(b"{}", length=100_000_000),
    "a tensor of 2^63 numbers": prefixed(b'{"x":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0]}}'),
    "sides whose product wraps to nothing": prefixed(
        b'{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'
    ),
    "an npy of 2^62 numbers": npy_said(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }\n"
    ),
    "an npy of sides whose product wraps": npy_said(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }\n"
    ),
    "an npy header of brackets": npy_said("(" * 60_000),
    "a pickle": npy(np.array([{"a": 1}], dtype=object), pickled=True),
    "NaN": npy(np.array([1.0, np.nan, 2.0], np.float32)),
    "infinity": npy(np.array([1.0, np.inf, 2.0], np.float32)),
    "nothing": b"",
    "many empty tensors": prefixed(
        json.dumps({f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(3_000)}).encode()
    ),
}


@st.composite
def _hurt(draw: st.DrawFn) -> bytes:
    whole = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(0, 4))):
        whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return bytes(whole[: draw(st.integers(0, len(whole)))]) + draw(st.binary(max_size=8))


@st.composite
def _lying(draw: st.DrawFn) -> bytes:
    entry = st.fixed_dictionaries(
        {},
        optional={
            "dtype": DTYPES,
            "shape": st.lists(NUMBERS, max_size=3),
            "data_offsets": st.lists(NUMBERS, max_size=3),
            "more": NUMBERS,
        },
    )
    names = st.sampled_from(["weight", "bias", "x", "", "__metadata__", "ä" * 600])
    header = json.dumps(draw(st.dictionaries(names, entry, max_size=3))).encode()
    length = draw(st.sampled_from([None, 0, 1, len(header) - 1, len(header) + 1, 2**31, 2**64 - 1]))
    return prefixed(header, draw(st.binary(max_size=24)), None if length is None or length < 0 else length)


@st.composite
def _lying_npy(draw: st.DrawFn) -> bytes:
    said = {
        "descr": draw(st.sampled_from(["<f4", "<f8", ">f4", "|O", "<c8", "<U4", "f4, f4", "", 4])),
        "fortran_order": draw(st.sampled_from([False, True, 0, "no"])),
        "shape": tuple(draw(st.lists(NUMBERS, max_size=3))),
    }
    for key in draw(st.sets(st.sampled_from(sorted(said)), max_size=1)):
        del said[key]
    return npy_said(f"{said!r}\n", draw(st.binary(max_size=24)), draw(st.sampled_from([None, 0, 5, 0xFFFF])))


def damaged_files() -> st.SearchStrategy[bytes]:
    """Bytes that claim to be tensors, a few of them rightly."""
    return st.one_of(st.binary(max_size=64), _hurt(), _lying(), _lying_npy(), st.sampled_from(sorted(BOMBS.values())))
