"""ihvp: certified inverse-Hessian-vector products as a service; the contract, the client and the CLI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ihvp.client import Client

__all__ = ["Client", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The API process imports this package too and must not pay for the client's numpy.
    if name == "Client":
        from ihvp.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
