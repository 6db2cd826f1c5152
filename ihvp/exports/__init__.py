"""Programs of torch.export read from their ``.pt2`` archives: JSON and raw bytes, without torch and without pickle."""

from ihvp.exports.archive import Archive
from ihvp.exports.program import ExportProgram, Node, StoredWeight, read_program
from ihvp.exports.switch import require_exports

__all__ = ["Archive", "ExportProgram", "Node", "StoredWeight", "read_program", "require_exports"]
