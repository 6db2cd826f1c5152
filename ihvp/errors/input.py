"""What a caller sent and nobody can use."""

from __future__ import annotations

from ihvp.errors.base import IhvpError

__all__ = [
    "AddressNotAllowed",
    "DataMismatch",
    "DigestMismatch",
    "EmptyData",
    "ExportsNotAllowed",
    "HessianTooLarge",
    "IdempotencyMismatch",
    "InvalidAdapter",
    "InvalidArchitecture",
    "InvalidExport",
    "InvalidHeader",
    "InvalidIndex",
    "InvalidInput",
    "InvalidOption",
    "InvalidReference",
    "InvalidSampleWeights",
    "InvalidTensor",
    "InvalidWebhook",
    "LossMismatch",
    "MalformedBody",
    "ModelInTrainingMode",
    "NonFiniteRhs",
    "NonFiniteWeights",
    "NotRegistered",
    "PickleRefused",
    "ProjectionMismatch",
    "RemoteCodeRefused",
    "RhsShapeMismatch",
    "RowsMismatch",
    "SolveTooLarge",
    "TargetsOutOfRange",
    "UnknownArchitecture",
    "UnknownBlob",
    "UnknownLoss",
    "UnknownMethod",
    "UnknownModel",
    "UnknownOption",
    "UnknownParameters",
    "UnsupportedLayer",
    "ValidationFailed",
    "WebhookSecretMissing",
    "WeightsMismatch",
]


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


class ProjectionMismatch(InvalidInput):
    """The rows that a result is to be projected on do not fit it."""

    code = "projection_mismatch"


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


class RemoteCodeRefused(InvalidInput):
    """A model's config asks for code that is not part of the libraries installed here."""

    code = "remote_code_refused"


class PickleRefused(InvalidInput):
    """Weights are there as pickles only, which run code when they are read."""

    code = "pickle_refused"


class InvalidAdapter(InvalidInput):
    """An adapter is of a kind that is not offered, or does not belong to the model it was named with."""

    code = "invalid_adapter"


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


class InvalidIndex(InvalidInput):
    """An index of rows names one that is not there, or is no list of whole numbers."""

    code = "invalid_index"


class InvalidSampleWeights(InvalidInput):
    """A sample weight is negative or not finite, or all are zero."""

    code = "invalid_sample_weights"


class TargetsOutOfRange(InvalidInput):
    """A target is not a class that the model can predict."""

    code = "targets_out_of_range"


class InvalidExport(InvalidInput):
    """An exported program that cannot be read safely, or is not good for products with H."""

    code = "invalid_export"


class ExportsNotAllowed(InvalidExport):
    """The operator has not allowed exported programs."""

    code = "exports_not_allowed"


class InvalidTensor(InvalidInput):
    """Bytes are neither a readable npy nor a readable safetensors tensor."""

    code = "invalid_tensor"


class UnknownBlob(InvalidInput):
    """A request refers to a blob that was not uploaded."""

    code = "unknown_blob"


class InvalidReference(InvalidInput):
    """A model, blob or tensor reference is not written as references are."""

    code = "invalid_reference"


class InvalidHeader(InvalidInput):
    """A request header is not written as it has to be."""

    code = "invalid_header"


class IdempotencyMismatch(InvalidInput):
    """An Idempotency-Key that was used for another request."""

    code = "idempotency_mismatch"


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


class InvalidWebhook(InvalidInput):
    """A webhook's address is none that deliveries can go to."""

    code = "invalid_webhook"


class AddressNotAllowed(InvalidWebhook):
    """The service does not connect to this host: its address is private or special."""

    code = "address_not_allowed"


class WebhookSecretMissing(InvalidInput):
    """A webhook was asked for, and there is no secret to sign its deliveries with."""

    code = "webhook_secret_missing"
