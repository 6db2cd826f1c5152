"""What an error that a job met means to its caller."""

from __future__ import annotations

from ihvp.errors import IhvpError, OutOfMemory
from ihvp.jobs.record import JobRecord
from solvers.out_of_memory import is_out_of_memory as wanted_memory

__all__ = ["is_out_of_memory", "out_of_memory", "unforeseen"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was what it wanted, also where a checked error was raised for it."""
    if isinstance(error, IhvpError):
        # A model that cannot be applied to its inputs for want of memory does fit them.
        return error.__cause__ is not None and is_out_of_memory(error.__cause__)
    return wanted_memory(error)


def out_of_memory(job: JobRecord, memory_budget: int) -> OutOfMemory:
    """The error of a job that needs more memory than there is."""
    request = job.request
    itemsize = 8 if request.model.spec.dtype == "float64" else 4
    vectors = request.rhs.columns * request.model.num_params * itemsize
    return OutOfMemory(
        "The solve needs more memory than the worker has.",
        given=f"{request.rhs.columns} × {request.model.num_params} numbers, {vectors} bytes each copy of b",
        allowed=f"a memory budget of {memory_budget} bytes beside model and data",
        hint="Send fewer right-hand sides a job, or a smaller data.batch_size.",
    )


def unforeseen(error: BaseException) -> IhvpError:
    """The error of a job that met one which nobody thought of.

    The text of an unknown exception may hold paths or data: it stays in the log.
    """
    text = f"The worker met an error that it does not know: {type(error).__name__}."
    return IhvpError(text, hint="The worker's log has the traceback, under this job's id.")
