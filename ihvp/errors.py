"""Every error a user of ihvp can meet, each with a stable ``code``.

::

    IhvpError                          internal_error
    ├── InvalidInput (ValueError)      invalid_input
    │   ├── MalformedBody              malformed_json
    │   ├── ValidationFailed           validation_error
    │   ├── UnknownMethod              unknown_method
    │   ├── UnknownOption              unknown_option
    │   ├── InvalidOption              invalid_option
    │   ├── RhsShapeMismatch           rhs_shape_mismatch
    │   ├── NonFiniteRhs               rhs_not_finite
    │   ├── UnknownModel               unknown_model
    │   ├── UnknownArchitecture        unknown_architecture
    │   ├── InvalidArchitecture        invalid_architecture
    │   ├── UnknownParameters          unknown_parameters
    │   ├── WeightsMismatch            weights_mismatch
    │   ├── NonFiniteWeights           weights_not_finite
    │   ├── UnknownLoss                unknown_loss
    │   ├── LossMismatch               loss_mismatch
    │   ├── EmptyData                  empty_data
    │   ├── RowsMismatch               rows_mismatch
    │   ├── DataMismatch               data_mismatch
    │   ├── TargetsOutOfRange          targets_out_of_range
    │   ├── InvalidTensor              invalid_tensor
    │   ├── UnknownBlob                unknown_blob
    │   ├── InvalidReference           invalid_reference
    │   ├── DigestMismatch             digest_mismatch
    │   ├── ModelInTrainingMode        model_in_training_mode
    │   ├── UnsupportedLayer           unsupported_layer
    │   ├── NotRegistered (LookupError) not_registered
    │   ├── HessianTooLarge            hessian_too_large
    │   └── SolveTooLarge              solve_too_large
    ├── BodyTooLarge                   body_too_large
    ├── NotFound (LookupError)         not_found
    │   ├── JobNotFound                job_not_found
    │   ├── ModelNotFound              model_not_found
    │   └── BlobNotFound               blob_not_found
    ├── Conflict                       conflict
    │   ├── JobNotFinished             job_not_finished
    │   ├── JobAlreadyFinished         job_already_finished
    │   ├── NoResult                   no_result
    │   └── NoInfluence                no_influence
    ├── Gone                           gone
    │   └── ResultExpired              result_expired
    ├── MethodNotAllowed               method_not_allowed
    ├── NotAcceptable                  not_acceptable
    ├── RangeNotSatisfiable            range_not_satisfiable
    ├── Unavailable                    unavailable
    │   ├── StoreUnavailable           store_unavailable
    │   └── OutOfSpace                 out_of_space
    ├── JobFailed                      job_failed
    ├── WaitTimeout (TimeoutError)     wait_timeout
    ├── ServiceUnreachable             service_unreachable
    ├── WorkerLost                     worker_lost
    ├── OutOfMemory                    out_of_memory
    ├── StaleAttempt                   stale_attempt
    └── SetupError                     setup_error

A message says what was given, what is allowed, and what to try; the three parts are kept apart so that a
program can show them as it likes. How a code maps to an HTTP status stands in one place, ``app.errors``.
"""

from __future__ import annotations

from typing import Any, ClassVar


class IhvpError(Exception):
    """The root of all errors that ihvp raises on purpose.

    Args:
        message: One sentence on what is wrong.
        given: What the caller sent, short enough to print.
        allowed: What would have been accepted.
        hint: What to try next.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, given: Any | None = None, allowed: Any | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.given = given
        self.allowed = allowed
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.message]
        if self.given is not None:
            parts.append(f"Given: {self.given}.")
        if self.allowed is not None:
            parts.append(f"Allowed: {self.allowed}.")
        if self.hint is not None:
            parts.append(self.hint)
        return " ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The parts of the error as JSON-ready values, without those that were not said."""
        parts = {name: getattr(self, name) for name in ("code", "message", "given", "allowed", "hint")}
        return {name: value for name, value in parts.items() if value is not None}


class InvalidInput(IhvpError, ValueError):
    """What the caller sent cannot be used as it is."""

    code = "invalid_input"


class MalformedBody(InvalidInput):
    """The body is not the JSON it claims to be."""

    code = "malformed_json"


class ValidationFailed(InvalidInput):
    """Fields are missing, unknown, or of the wrong type."""

    code = "validation_error"


class UnknownMethod(InvalidInput):
    """No inversion method has this name."""

    code = "unknown_method"


class UnknownOption(InvalidInput, TypeError):
    """The method has no option of this name."""

    code = "unknown_option"


class InvalidOption(InvalidInput):
    """An option has the wrong type or lies outside its range."""

    code = "invalid_option"


class RhsShapeMismatch(InvalidInput):
    """A right-hand side has not as many numbers as the model has parameters."""

    code = "rhs_shape_mismatch"


class NonFiniteRhs(InvalidInput):
    """A right-hand side holds NaN or infinity."""

    code = "rhs_not_finite"


class UnknownModel(InvalidInput):
    """A job names a model that is not registered."""

    code = "unknown_model"


class UnknownArchitecture(InvalidInput):
    """The architecture type is not on the operator's list."""

    code = "unknown_architecture"


class InvalidArchitecture(InvalidInput):
    """The architecture's config does not describe a module."""

    code = "invalid_architecture"


class UnknownParameters(InvalidInput):
    """A parameter pattern matches nothing."""

    code = "unknown_parameters"


class WeightsMismatch(InvalidInput):
    """Names, shapes or dtypes of the weights do not fit the architecture."""

    code = "weights_mismatch"


class NonFiniteWeights(InvalidInput):
    """The weights hold NaN or infinity."""

    code = "weights_not_finite"


class UnknownLoss(InvalidInput):
    """No loss has this name."""

    code = "unknown_loss"


class LossMismatch(InvalidInput):
    """The loss cannot be taken of these outputs and targets."""

    code = "loss_mismatch"


class EmptyData(InvalidInput):
    """There are no data points."""

    code = "empty_data"


class RowsMismatch(InvalidInput):
    """Inputs and targets differ in their number of rows."""

    code = "rows_mismatch"


class DataMismatch(InvalidInput):
    """The inputs do not have the shape or dtype that the model takes."""

    code = "data_mismatch"


class TargetsOutOfRange(InvalidInput):
    """A target is not a class that the model can predict."""

    code = "targets_out_of_range"


class InvalidTensor(InvalidInput):
    """Bytes are neither a readable npy nor a readable safetensors tensor."""

    code = "invalid_tensor"


class UnknownBlob(InvalidInput):
    """A request refers to a blob that was not uploaded."""

    code = "unknown_blob"


class InvalidReference(InvalidInput):
    """A model, blob or tensor reference is not written as references are."""

    code = "invalid_reference"


class DigestMismatch(InvalidInput):
    """Uploaded bytes hash to another digest than the one named."""

    code = "digest_mismatch"


class ModelInTrainingMode(InvalidInput):
    """The module's output would change from call to call (dropout or batch norm in training mode)."""

    code = "model_in_training_mode"


class UnsupportedLayer(InvalidInput):
    """A layer of the model cannot be differentiated twice."""

    code = "unsupported_layer"


class NotRegistered(InvalidInput, LookupError):
    """No solver is registered for this kind of model and method."""

    code = "not_registered"


class HessianTooLarge(InvalidInput):
    """A dense Hessian would not fit the memory budget."""

    code = "hessian_too_large"


class SolveTooLarge(InvalidInput):
    """The vectors and factors of a solve would not fit the memory budget."""

    code = "solve_too_large"


class BodyTooLarge(IhvpError):
    """The request's body exceeds the limit."""

    code = "body_too_large"


class NotFound(IhvpError, LookupError):
    """Nothing is stored under this name."""

    code = "not_found"


class JobNotFound(NotFound):
    """No job has this id."""

    code = "job_not_found"


class ModelNotFound(NotFound):
    """No model has this name and version."""

    code = "model_not_found"


class BlobNotFound(NotFound):
    """No blob has this digest."""

    code = "blob_not_found"


class Conflict(IhvpError):
    """The request does not fit the state of what it names."""

    code = "conflict"


class JobNotFinished(Conflict):
    """The job has not ended yet."""

    code = "job_not_finished"


class JobAlreadyFinished(Conflict):
    """The job has ended; there is nothing left to stop."""

    code = "job_already_finished"


class NoResult(Conflict):
    """The job ended without a result."""

    code = "no_result"


class NoInfluence(Conflict):
    """Influence scores were not asked for at submit."""

    code = "no_influence"


class Gone(IhvpError):
    """It existed and was removed."""

    code = "gone"


class ResultExpired(Gone):
    """The result was removed when its retention time was over."""

    code = "result_expired"


class MethodNotAllowed(IhvpError):
    """The address exists, but not for this HTTP method."""

    code = "method_not_allowed"


class NotAcceptable(IhvpError):
    """None of the media types asked for can be produced."""

    code = "not_acceptable"


class RangeNotSatisfiable(IhvpError):
    """The byte range asked for lies outside the bytes."""

    code = "range_not_satisfiable"


class Unavailable(IhvpError):
    """The service cannot do this now; later it can."""

    code = "unavailable"


class StoreUnavailable(Unavailable):
    """The job store does not answer."""

    code = "store_unavailable"


class OutOfSpace(Unavailable):
    """The blob store has reached its bound on disk."""

    code = "out_of_space"


class JobFailed(IhvpError):
    """A job that was waited for ended without success.

    Args:
        message: One sentence on what happened.
        reason: The job's own error, where it has one; its code says why the job failed.
        given: As in ``IhvpError``.
        allowed: As in ``IhvpError``.
        hint: As in ``IhvpError``.
    """

    code = "job_failed"

    def __init__(
        self,
        message: str,
        *,
        reason: IhvpError | None = None,
        given: Any | None = None,
        allowed: Any | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, given=given, allowed=allowed, hint=hint)
        self.reason = reason


class WaitTimeout(IhvpError, TimeoutError):
    """The job did not end within the time that was given to it."""

    code = "wait_timeout"


class ServiceUnreachable(IhvpError, ConnectionError):
    """No service answers at the address."""

    code = "service_unreachable"


class WorkerLost(IhvpError):
    """Worker after worker died on this job."""

    code = "worker_lost"


class OutOfMemory(IhvpError):
    """The solve needs more memory than there is."""

    code = "out_of_memory"


class StaleAttempt(IhvpError):
    """A worker wrote for an attempt that is no longer the job's current one."""

    code = "stale_attempt"


class SetupError(IhvpError):
    """The service cannot start as it is set up."""

    code = "setup_error"
