"""Registering a model: checked against its blobs, then a version that never changes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread

from app.held_blobs import held_blobs
from app.looking import look
from app.model_inspection import inspect_model
from app.referenced_files import ReferencedFiles
from app.stored_tensors import keep_blobs
from ihvp.sources.sources import Sources

if TYPE_CHECKING:
    from app.services import Services
    from ihvp.models.store import Registration
    from ihvp.wire import ModelRegistration

__all__ = ["register_model"]


async def register_model(services: Services, registration: ModelRegistration) -> Registration:
    """The next version of the name, or the one that has this spec already.

    Raises:
        InvalidInput: The spec does not fit its blobs.
    """
    spec = registration.spec
    blobs = await held_blobs(services, spec.blob_digests())
    files = ReferencedFiles(blobs, Sources.to_look(services.settings))
    inspected = await look(services, partial(inspect_model, spec, files, services.settings), files, spec.source_uris())
    await anyio.to_thread.run_sync(keep_blobs, blobs, spec.blob_digests())
    return await services.models.register(
        registration.name,
        inspected.spec,
        layout=inspected.layout,
        num_params=inspected.num_params,
        num_points=inspected.num_points,
    )
