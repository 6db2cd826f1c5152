"""What an error that a job met means to its caller."""

from __future__ import annotations

from dataclasses import replace

from ihvp.costs.model import work_of
from ihvp.costs.workload import Task, Workload
from ihvp.errors import IhvpError, OutOfMemory
from ihvp.jobs.submission import JobRequest
from ihvp.methods import InversionMethod
from solvers.out_of_memory import is_out_of_memory as wanted_memory
from workers.memory import MemoryBudget, most_columns

__all__ = ["is_out_of_memory", "out_of_memory", "unforeseen"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was what it wanted, also where a checked error was raised for it."""
    if isinstance(error, IhvpError):
        # A model that cannot be applied to its inputs for want of memory does fit them.
        return error.__cause__ is not None and is_out_of_memory(error.__cause__)
    return wanted_memory(error)


def out_of_memory(
    request: JobRequest, workload: Workload | None, budget: MemoryBudget, free: int, said: BaseException
) -> OutOfMemory:
    """The error of a job that needs more memory than there is, also with a smaller budget.

    Args:
        request: What was asked for.
        workload: The same as far as its cost goes; None where memory ran out while the model was loaded.
        budget: What was tried.
        free: Bytes that are free without it.
        said: What the allocator said.
    """
    tried = f"a budget of {budget.full} bytes" + (f", then {budget.bytes}" if budget.reduced else "")
    size = f"{request.rhs.columns} × {request.model.num_params} numbers"
    if workload is None:
        return OutOfMemory(
            "The model and its data need more memory than the worker has.",
            given=f"{size}; {(str(said).splitlines() or [''])[0][:200]}",
            allowed=f"{free} bytes are free, {tried} tried",
            hint="Use workers with more memory, or fewer of them on this machine (IHVP_WORKERS).",
        )
    needed = work_of(workload, Task.of(request.method, request.options, workload.dtype)).certain_bytes
    return OutOfMemory(
        "The solve needs more memory than the worker has.",
        given=f"{size}: at least {needed} bytes by method {request.method.value!r}, beside products",
        allowed=f"{free} bytes are free beside model and data, {tried} tried",
        hint=_what_would_fit(request, workload, free),
    )


def _what_would_fit(request: JobRequest, workload: Workload, free: int) -> str:
    # Half of it: products need some as well, and that is what ran out where the vectors alone would fit.
    room = free // 2
    columns = most_columns(workload, request.method, request.options, room)
    if columns == workload.columns:
        columns //= 2
    if columns:
        return f"Up to {columns} right-hand sides a job would fit, in {room} bytes; or a smaller data.batch_size."
    if request.method is not InversionMethod.Cg:
        columns = most_columns(workload, InversionMethod.Cg, {}, room)
        if columns:
            return f"Method 'cg' would fit, with up to {columns} right-hand sides a job, in {room} bytes."
    one = work_of(replace(workload, columns=1), Task.of(InversionMethod.Cg, {}, workload.dtype)).certain_bytes
    return (
        f"Method 'cg' needs {2 * one} bytes for one right-hand side: choose fewer parameters with parameters.include, "
        "or use workers with more memory."
    )


def unforeseen(error: BaseException) -> IhvpError:
    """The error of a job that met one which nobody thought of.

    The text of an unknown exception may hold paths or data: it stays in the log.
    """
    text = f"The worker met an error that it does not know: {type(error).__name__}."
    return IhvpError(text, hint="The worker's log has the traceback, under this job's id.")
