"""The inversion methods: their names, their options, what each guarantees and costs, and how a solve may end."""

from ihvp.methods.catalogue import METHODS, MethodDescription, default_rtol, dense_hessian_bytes, parse_options
from ihvp.methods.names import (
    Curvature,
    InversionMethod,
    Preconditioning,
    TerminationStatus,
    parse_method,
)
from ihvp.methods.options import (
    ArnoldiOptions,
    AutoOptions,
    CgOptions,
    DatainfOptions,
    DirectOptions,
    EkfacOptions,
    KfacOptions,
    LissaOptions,
    MethodOptions,
    MinresOptions,
    NystromOptions,
)

__all__ = [
    "METHODS",
    "ArnoldiOptions",
    "AutoOptions",
    "CgOptions",
    "Curvature",
    "DatainfOptions",
    "DirectOptions",
    "EkfacOptions",
    "InversionMethod",
    "KfacOptions",
    "LissaOptions",
    "MethodDescription",
    "MethodOptions",
    "MinresOptions",
    "NystromOptions",
    "Preconditioning",
    "TerminationStatus",
    "default_rtol",
    "dense_hessian_bytes",
    "parse_method",
    "parse_options",
]
