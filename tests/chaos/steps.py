"""The steps at which a worker can be made to die or freeze."""

from __future__ import annotations

from typing import Final

AFTER_CLAIM: Final = "after the claim"
DURING_LOAD: Final = "during the load"
MID_SOLVE: Final = "in the middle of the solve"
BEFORE_BLOB: Final = "before the blob"
BEFORE_END: Final = "between the blob and the end"
AFTER_END: Final = "after the end"
STEPS: Final = (AFTER_CLAIM, DURING_LOAD, MID_SOLVE, BEFORE_BLOB, BEFORE_END, AFTER_END)
