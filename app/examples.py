"""One job on one model, as the API's documentation shows it throughout."""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "BLOB",
    "DELIVERY",
    "DELIVERY_ID",
    "INFLUENCE",
    "JOB",
    "JOB_ID",
    "JOB_PAGE",
    "METHODS_LIST",
    "MODEL",
    "MODEL_PAGE",
    "MODEL_VERSIONS",
    "PREDICTION",
    "READY",
    "REGISTRATION",
    "RESULT",
    "SECRET",
    "SUBMISSIONS",
    "WEIGHTS",
]

WEIGHTS: Final = "sha256:" + "3f" * 32
INPUTS: Final = "sha256:" + "a1" * 32
TARGETS: Final = "sha256:" + "b2" * 32
RESULT_DIGEST: Final = "sha256:" + "c3" * 32
SPEC_DIGEST: Final = "sha256:" + "d4" * 32
JOB_ID: Final = "job_01KAT5ZXQ6V5M9W3E8H2R7N4CD"
CREATED: Final = "2026-01-05T10:00:00Z"
DELIVERY_ID: Final = "msg_01KAT5ZXQ6V5M9W3E8H2R7N4CD_1767607200120-0_finished"

SPEC: Final[dict[str, Any]] = {
    "architecture": {"type": "linear", "config": {"in_features": 2, "out_features": 1, "bias": True}},
    "weights": WEIGHTS,
    "loss": {"type": "mse"},
    "data": {"inputs": INPUTS, "targets": TARGETS, "batch_size": 1024},
    "parameters": {"include": ["*"]},
    "dtype": "float64",
}
REGISTRATION: Final = {"name": "house-prices", **SPEC, "loss": "mse"}
MODEL: Final = {
    "name": "house-prices",
    "version": 1,
    "reference": "house-prices@1",
    "digest": SPEC_DIGEST,
    "num_params": 3,
    "num_points": 500,
    "layout": [
        {"name": "weight", "offset": 0, "shape": [1, 2]},
        {"name": "bias", "offset": 2, "shape": [1]},
    ],
    "spec": {**SPEC, "loss": {"type": "mse", "label_smoothing": 0.0, "ignore_index": None}},
    "created_at": CREATED,
    "links": {"self": "/v1/models/house-prices/1", "versions": "/v1/models/house-prices"},
}
MODEL_PAGE: Final[dict[str, Any]] = {"models": [MODEL], "next": None, "aliases": {}}
MODEL_VERSIONS: Final = {**MODEL_PAGE, "aliases": {"champion": 1}}

CERTIFICATE: Final = {"status": "converged", "relative_residual": 3.1e-12, "iterations": 3, "advice": None}
OPTIONS: Final = {
    "rtol": 1e-8,
    "atol": 0.0,
    "maxiter": None,
    "preconditioner": None,
    "preconditioner_rank": None,
    "seed": 0,
}
JOB: Final[dict[str, Any]] = {
    "id": JOB_ID,
    "state": "succeeded",
    "revision": 5,
    "attempt": 1,
    "model": {"reference": "house-prices@1", "digest": SPEC_DIGEST, "num_params": 3},
    "method": "cg",
    "hessian_perturbation": 0.01,
    "options": OPTIONS,
    "curvature": "hessian",
    "rhs": {"blob": "sha256:" + "e5" * 32, "gradient_of": None, "shape": [3]},
    "influence": {"on": "training"},
    "priority": "normal",
    "deadline_at": None,
    "created_at": CREATED,
    "started_at": "2026-01-05T10:00:00.004Z",
    "finished_at": "2026-01-05T10:00:00.051Z",
    "queue_position": None,
    "eta": None,
    "cancel_requested": False,
    "progress": {
        "phase": "storing",
        "iteration": 3,
        "max_iterations": 30,
        "relative_residual": [3.1e-12],
        "rate_hvp_s": 4100.0,
        "eta_s": 0.0,
    },
    "result": {
        "digest": RESULT_DIGEST,
        "size": 1432,
        "shape": [3],
        "dtype": "float64",
        "certificate": [CERTIFICATE],
        "influence_digest": "sha256:" + "f6" * 32,
        "solve_s": 0.047,
    },
    "error": None,
    "tags": {"run": "42"},
    "webhook": {"url": "https://platform.example/hooks/ihvp", "events": ["job.finished"]},
    "links": {
        "self": f"/v1/jobs/{JOB_ID}",
        "events": f"/v1/jobs/{JOB_ID}/events",
        "cancel": f"/v1/jobs/{JOB_ID}/cancel",
        "result": f"/v1/jobs/{JOB_ID}/result",
        "influence": f"/v1/jobs/{JOB_ID}/influence",
        "model": "/v1/models/house-prices/1",
    },
}
JOB_PAGE: Final = {"jobs": [JOB], "next": None}
PREDICTION: Final = {
    "model": {"reference": "house-prices@1", "digest": SPEC_DIGEST, "num_params": 3},
    "layout": [{"name": "weight", "offset": 0, "shape": [1, 2]}, {"name": "bias", "offset": 2, "shape": [1]}],
    "num_points": 500,
    "columns": 1,
    "curvature": "hessian",
    "hessian_perturbation": 0.01,
    "memory_budget": 4294967296,
    "queue_length": 2,
    "workers": 1,
    "starts_in_s": 0.1,
    "ends_in_s": 0.14,
    "unknown": None,
    "load_s": 0.02,
    "kept_bytes": 65536,
    "predictions": [
        {
            "method": "direct",
            "asked": False,
            "bytes": 264,
            "fits": True,
            "seconds": 0.036,
            "products": 4,
            "basis": "this_model",
            "refused": None,
        },
        {
            "method": "cg",
            "asked": True,
            "bytes": 144,
            "fits": True,
            "seconds": 0.037,
            "products": 4,
            "basis": "this_model",
            "refused": None,
        },
    ],
}

SUBMISSIONS: Final[dict[str, dict[str, Any]]] = {
    "inline": {
        "summary": "A right-hand side sent inline",
        "value": {
            "model": "house-prices@1",
            "rhs": {"inline": [0.5, -1.0, 0.25]},
            "method": "cg",
            "hessian_perturbation": 0.01,
            "options": {"rtol": 1e-8},
            "tags": {"run": "42"},
        },
    },
    "influence": {
        "summary": "Influence of the training points on the loss at test points",
        "value": {
            "model": "house-prices@1",
            "rhs": {"gradient_of": {"inputs": INPUTS, "targets": TARGETS}},
            "method": "cg",
            "hessian_perturbation": 0.01,
            "influence": {"on": "training"},
        },
    },
    "blocks": {
        "summary": "Another curvature, and a λ by parameter: of several patterns that match, the last one counts",
        "value": {
            "model": "house-prices@1",
            "rhs": {"inline": [0.5, -1.0, 0.25]},
            "method": "minres",
            "curvature": "ggn",
            "hessian_perturbation": {"*": 0.01, "bias": 0.1},
        },
    },
}
RESULT: Final = {
    "x": [0.41, -0.92, 0.2],
    "x_href": f"/v1/jobs/{JOB_ID}/result?format=safetensors",
    "shape": [3],
    "dtype": "float64",
    "info": {"certificate": [CERTIFICATE], "method": "cg", "options": OPTIONS, "timings": {"solve": 0.03}},
    "provenance": {
        "job_id": JOB_ID,
        "attempt": 1,
        "given": "house-prices",
        "model": "house-prices@1",
        "model_digest": SPEC_DIGEST,
        "method": "cg",
        "options": OPTIONS,
        "seed": 0,
        "hessian_perturbation": 0.01,
        "curvature": "hessian",
        "influence": True,
        "weights": WEIGHTS,
        "data": {"inputs": INPUTS, "targets": TARGETS},
        "rhs": {"shape": [3]},
        "dtype": "float64",
        "device": "cpu",
        "threads": 1,
        "versions": {"ihvp": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
    },
    "digest": RESULT_DIGEST,
}
INFLUENCE: Final = {
    "scores": [[0.12, -0.4, 0.03]],
    "scores_href": "/v1/blobs/sha256:" + "f6" * 32,
    "shape": [1, 3],
    "top": [
        {
            "helpful": [{"index": 0, "score": 0.12}, {"index": 2, "score": 0.03}],
            "harmful": [{"index": 1, "score": -0.4}, {"index": 2, "score": 0.03}],
        }
    ],
}
BLOB: Final = {"digest": WEIGHTS, "size": 104712, "href": f"/v1/blobs/{WEIGHTS}"}
READY: Final = {"ready": True, "store": "ok", "broker": "ok", "workers": 1, "chain": "ok"}
METHODS_LIST: Final = {
    "methods": [
        {
            "method": "direct",
            "title": "Dense factorisation of H + λI",
            "guarantee": "Relative residual ≤ 1e-10 in float64.",
            "cost": "p Hessian-vector products, p² numbers of memory.",
            "exact": True,
            "options_schema": {"type": "object", "properties": {}, "additionalProperties": False},
        }
    ]
}

DELIVERY: Final[dict[str, Any]] = {
    "id": DELIVERY_ID,
    "job_id": JOB_ID,
    "type": "job.finished",
    "url": "https://platform.example/hooks/ihvp",
    "state": "pending",
    "occurred_at": CREATED,
    "due_at": "2026-01-05T10:00:05Z",
    "ended_at": None,
    "sending": False,
    "attempts": 1,
    "tries": [{"attempt": 1, "at": CREATED, "status": 503, "error": None, "seconds": 0.12}],
    "links": {
        "self": f"/v1/webhooks/deliveries/{DELIVERY_ID}",
        "replay": f"/v1/webhooks/deliveries/{DELIVERY_ID}/replay",
        "job": f"/v1/jobs/{JOB_ID}",
    },
}
SECRET: Final[dict[str, Any]] = {
    "id": "whk_5f0c1b7be0a9",
    "created_at": CREATED,
    "valid_until": None,
    "secret": "whsec_ZXhhbXBsZS1leGFtcGxlLWV4YW1wbGUtZXhhbXBsZSE=",
}
