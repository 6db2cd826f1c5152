"""What Schemathesis has to be told before it can test the service: loaded by schemathesis.toml."""

from __future__ import annotations

import schemathesis

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Leaves out requests that are to be refused for a header which nobody knows: HTTP has those ignored."""
    del context
    return "x-schemathesis-unknown-property" not in (case.headers or {})
