"""The Python client: everything the HTTP API does, with numpy arrays in and out."""

from ihvp.client.client import Client
from ihvp.client.rerun import Rerun
from ihvp.client.result import SolveResult

__all__ = ["Client", "Rerun", "SolveResult"]
