"""What the service, its store or a worker cannot do, and jobs that ended otherwise than hoped for."""

from __future__ import annotations

from typing import Any

from ihvp.errors.base import IhvpError

__all__ = [
    "BlobNotFound",
    "BodyTooLarge",
    "Conflict",
    "DeliveryNotFound",
    "DeliveryUnderWay",
    "Forbidden",
    "Gone",
    "JobAlreadyFinished",
    "JobFailed",
    "JobNotFinished",
    "JobNotFound",
    "KeyNotFound",
    "MethodNotAllowed",
    "ModelLoadTimeout",
    "ModelNotFound",
    "ModelQuarantined",
    "ModelTooLarge",
    "NetworkClosed",
    "NoInfluence",
    "NoResult",
    "NotAcceptable",
    "NotFound",
    "OutOfMemory",
    "OutOfSpace",
    "QueueFull",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "RateLimited",
    "ResultExpired",
    "ServiceUnreachable",
    "SetupError",
    "StaleAttempt",
    "StoreUnavailable",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
    "WaitTimeout",
    "WebhookSecretExists",
    "WorkerLost",
]


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


class KeyNotFound(NotFound):
    """No API key has this id."""

    code = "key_not_found"


class DeliveryNotFound(NotFound):
    """No delivery of a webhook has this id."""

    code = "delivery_not_found"


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


class DeliveryUnderWay(Conflict):
    """The delivery is being sent right now."""

    code = "delivery_under_way"


class WebhookSecretExists(Conflict):
    """There is a secret already; another takes its place by rotation."""

    code = "webhook_secret_exists"


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
    retry_after_s: float | None = 1.0


class StoreUnavailable(Unavailable):
    """The job store does not answer."""

    code = "store_unavailable"


class OutOfSpace(Unavailable):
    """The blob store has reached its bound on disk."""

    code = "out_of_space"
    retry_after_s = None


class TooManyRequests(IhvpError):
    """The caller asks for more than there is room for now.

    Args:
        message: As in ``IhvpError``.
        retry_after_s: Seconds after which there may be room again.
        given: As in ``IhvpError``.
        allowed: As in ``IhvpError``.
        hint: As in ``IhvpError``.
    """

    code = "too_many_requests"
    retry_after_s: float = 1.0

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 1.0,
        given: Any | None = None,
        allowed: Any | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, given=given, allowed=allowed, hint=hint)
        self.retry_after_s = retry_after_s


class QueueFull(TooManyRequests):
    """As many jobs wait as the service lets wait."""

    code = "queue_full"


class QuotaExceeded(TooManyRequests):
    """The tenant has as much as its quota allows."""

    code = "quota_exceeded"


class RateLimited(TooManyRequests):
    """The tenant asks more often than its limit allows."""

    code = "rate_limited"


class Unauthenticated(IhvpError):
    """The request has no API key that is known and valid."""

    code = "unauthenticated"


class Forbidden(IhvpError):
    """The API key does not allow this."""

    code = "forbidden"


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


class ModelQuarantined(IhvpError):
    """The method has killed worker after worker on this model."""

    code = "model_quarantined"


class ModelLoadTimeout(IhvpError):
    """The model and its data were not loaded in the time that loading has."""

    code = "model_load_timeout"


class ModelTooLarge(IhvpError):
    """The model and its data need more memory than loading may take."""

    code = "model_too_large"


class NetworkClosed(IhvpError):
    """Loading the model needed the network, which is closed to it."""

    code = "network_closed"


class OutOfMemory(IhvpError):
    """The solve needs more memory than there is."""

    code = "out_of_memory"


class StaleAttempt(IhvpError):
    """A worker wrote for an attempt that is no longer the job's current one."""

    code = "stale_attempt"


class SetupError(IhvpError):
    """The service cannot start as it is set up."""

    code = "setup_error"
