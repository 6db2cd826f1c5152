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
    │   ├── ProjectionMismatch         projection_mismatch
    │   ├── NonFiniteRhs               rhs_not_finite
    │   ├── UnknownModel               unknown_model
    │   ├── UnknownArchitecture        unknown_architecture
    │   ├── InvalidArchitecture        invalid_architecture
    │   ├── RemoteCodeRefused          remote_code_refused
    │   ├── PickleRefused              pickle_refused
    │   ├── InvalidAdapter             invalid_adapter
    │   ├── UnknownParameters          unknown_parameters
    │   ├── WeightsMismatch            weights_mismatch
    │   ├── NonFiniteWeights           weights_not_finite
    │   ├── UnknownLoss                unknown_loss
    │   ├── LossMismatch               loss_mismatch
    │   ├── EmptyData                  empty_data
    │   ├── RowsMismatch               rows_mismatch
    │   ├── DataMismatch               data_mismatch
    │   ├── InvalidIndex               invalid_index
    │   ├── InvalidSampleWeights       invalid_sample_weights
    │   ├── TargetsOutOfRange          targets_out_of_range
    │   ├── InvalidExport              invalid_export
    │   │   └── ExportsNotAllowed      exports_not_allowed
    │   ├── InvalidTensor              invalid_tensor
    │   ├── UnknownBlob                unknown_blob
    │   ├── InvalidReference           invalid_reference
    │   ├── InvalidHeader              invalid_header
    │   ├── IdempotencyMismatch        idempotency_mismatch
    │   ├── DigestMismatch             digest_mismatch
    │   ├── ChecksumMismatch           checksum_mismatch
    │   ├── UnsupportedChecksum        unsupported_checksum
    │   ├── ModelInTrainingMode        model_in_training_mode
    │   ├── UnsupportedLayer           unsupported_layer
    │   ├── NotRegistered (LookupError) not_registered
    │   ├── InvalidWebhook             invalid_webhook
    │   │   └── AddressNotAllowed      address_not_allowed
    │   ├── WebhookSecretMissing       webhook_secret_missing
    │   ├── SourceError                source_unusable
    │   │   ├── SourceNotFound         source_not_found
    │   │   ├── SourceForbidden        source_forbidden
    │   │   ├── SourceNotAllowed       source_not_allowed
    │   │   ├── SourceChanged          source_changed
    │   │   ├── SourceTooLarge         source_too_large
    │   │   └── SourceTruncated        source_truncated
    │   ├── HessianTooLarge            hessian_too_large
    │   └── SolveTooLarge              solve_too_large
    ├── BodyTooLarge                   body_too_large
    ├── NotFound (LookupError)         not_found
    │   ├── JobNotFound                job_not_found
    │   ├── ModelNotFound              model_not_found
    │   ├── BlobNotFound               blob_not_found
    │   ├── KeyNotFound                key_not_found
    │   ├── UploadNotFound             upload_not_found
    │   └── DeliveryNotFound           delivery_not_found
    ├── Conflict                       conflict
    │   ├── JobNotFinished             job_not_finished
    │   ├── JobAlreadyFinished         job_already_finished
    │   ├── NoResult                   no_result
    │   ├── NoInfluence                no_influence
    │   ├── OffsetMismatch             offset_mismatch
    │   ├── DeliveryUnderWay           delivery_under_way
    │   └── WebhookSecretExists        webhook_secret_exists
    ├── Gone                           gone
    │   ├── ResultExpired              result_expired
    │   └── UploadExpired              upload_expired
    ├── Unauthenticated                unauthenticated
    ├── Forbidden                      forbidden
    ├── MethodNotAllowed               method_not_allowed
    ├── NotAcceptable                  not_acceptable
    ├── RangeNotSatisfiable            range_not_satisfiable
    ├── UnsupportedMediaType           unsupported_media_type
    ├── UnsupportedTusVersion          unsupported_tus_version
    ├── Unavailable                    unavailable
    │   ├── StoreUnavailable           store_unavailable
    │   ├── OutOfSpace                 out_of_space
    │   ├── SourceUnavailable          source_unavailable
    │   │   └── SourceTimeout          source_timeout
    │   ├── UploadLocked               upload_locked
    │   └── UploadStalled              upload_stalled
    ├── TooManyRequests                too_many_requests
    │   ├── QueueFull                  queue_full
    │   ├── QuotaExceeded              quota_exceeded
    │   ├── RateLimited                rate_limited
    │   └── TooManyUploads             too_many_uploads
    ├── JobFailed                      job_failed
    ├── WaitTimeout (TimeoutError)     wait_timeout
    ├── ServiceUnreachable             service_unreachable
    ├── WorkerLost                     worker_lost
    ├── ModelQuarantined               model_quarantined
    ├── ModelLoadTimeout               model_load_timeout
    ├── ModelTooLarge                  model_too_large
    ├── NetworkClosed                  network_closed
    ├── OutOfMemory                    out_of_memory
    ├── StaleAttempt                   stale_attempt
    └── SetupError                     setup_error

A message says what was given, what is allowed, and what to try; the three parts are kept apart so that a
program can show them as it likes. How a code maps to an HTTP status stands in one place, ``app.errors``.
"""

from __future__ import annotations

from ihvp.errors import base as _base
from ihvp.errors import input as _input
from ihvp.errors import service as _service
from ihvp.errors import sources as _sources
from ihvp.errors import uploads as _uploads
from ihvp.errors.base import *  # noqa: F403 - each part says what is in it
from ihvp.errors.input import *  # noqa: F403
from ihvp.errors.service import *  # noqa: F403
from ihvp.errors.sources import *  # noqa: F403
from ihvp.errors.uploads import *  # noqa: F403

__all__: list[str] = []
__all__ += _base.__all__
__all__ += _input.__all__
__all__ += _service.__all__
__all__ += _sources.__all__
__all__ += _uploads.__all__
