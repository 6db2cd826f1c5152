"""The synchronous client of the HTTP API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

import httpx

from ihvp.client.arguments import Arguments
from ihvp.client.connection import IDEMPOTENCY_KEY, Connection
from ihvp.client.faults import raise_unless_succeeded
from ihvp.client.inspection import Inspection, inspect_model
from ihvp.client.model_calls import ModelCalls
from ihvp.client.rerun import Rerun, compare
from ihvp.client.result import SolveResult
from ihvp.client.result_calls import ResultCalls, job_path
from ihvp.client.resumable import Progress, send_blob
from ihvp.client.saved_result import read_saved, submission_of
from ihvp.client.uploads import BlobSource, Upload
from ihvp.client.webhooks import Webhooks
from ihvp.errors import JobNotFinished, NoResult, ResultExpired, WaitTimeout
from ihvp.jobs.record import JobEvent
from ihvp.jobs.states import TERMINAL, JobState
from ihvp.methods import Curvature, InversionMethod
from ihvp.models.spec import ModelSpec
from ihvp.settings import get_settings
from ihvp.wire import JobPage, JobView, MethodList, MethodView, ModelView, PredictionView

__all__ = ["Client"]

POLL_S: Final = 15.0


class Client(ModelCalls, ResultCalls):
    """Talks to one ihvp service. Close it, or use it as a context manager.

    Args:
        url: The service's address; by default ``IHVP_URL``.
        timeout: Longest silence of the service, in seconds, before a request fails.
        retry_s: How long requests that are safe to repeat are repeated while the service is away.
        api_key: Sent with each request; by default ``IHVP_API_KEY``.
        transport: Replaces the network, for tests.

    Attributes:
        webhooks: Deliveries of webhooks, and the secrets that sign them.

    Every method may raise ``ServiceUnreachable``, and what the service refuses as the error of its code.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout: float = 30.0,
        retry_s: float = 15.0,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._retry_s = retry_s
        known = get_settings().api_key
        self._link = Connection(
            url or get_settings().url,
            timeout_s=timeout,
            retry_s=retry_s,
            api_key=api_key or (known.get_secret_value() if known else None),
            transport=transport,
        )
        self._arguments = Arguments(self.put_blob)
        self.webhooks = Webhooks(self._link)

    @property
    def url(self) -> str:
        """The service's address."""
        return self._link.url

    def close(self) -> None:
        """Closes the connections."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Blobs and models

    def put_blob(self, source: BlobSource, progress: Progress | None = None) -> str:
        """Uploads a file (path or open binary file) or bytes, unless they are there already; returns the digest.

        Large ones go in parts (tus 1.0): where the line drops, the upload goes on from the last byte that arrived.

        Args:
            source: What to upload; a file is read a piece at a time.
            progress: Is called with the bytes sent so far and the bytes of the whole, where it goes in parts.
        """
        upload = Upload.of(source)
        send_blob(self._link, upload, retry_s=self._retry_s, progress=progress)
        return upload.digest

    def put_tensor(self, value: Any) -> str:
        """Uploads an array as npy, or a mapping of names to arrays as safetensors; returns the digest.

        Raises:
            InvalidTensor: It does not hold plain numbers.
        """
        return self._arguments.tensor(value)

    def register_model(
        self,
        name: str,
        spec: Any = None,
        *,
        architecture: Any = None,
        weights: Any = None,
        loss: Any = None,
        data: Any = None,
        parameters: Any = None,
        dtype: str | None = None,
    ) -> ModelView:
        """Registers a version of a model; a spec that the name already has keeps its version.

        Args:
            name: The model's name.
            spec: A whole spec (mapping or ``ModelSpec``); the other arguments override its fields.
            architecture: ``{"type": "mlp", "config": {…}}``.
            weights: Digest, safetensors file, or a mapping of parameter names to arrays.
            loss: ``"cross_entropy"``, or ``{"type": …, options}``.
            data: ``{"inputs": …, "targets": …}`` as digests, files or arrays; ``inputs`` may be a mapping of such by
                the names of the model's arguments. Also ``weights`` [n], and ``index``, row numbers.
            parameters: ``{"include": [patterns]}``.
            dtype: ``"float32"`` or ``"float64"``.
        """
        fields = {
            "architecture": architecture,
            "weights": weights,
            "loss": loss,
            "data": data,
            "parameters": parameters,
            "dtype": dtype,
        }
        document = {"name": name, **self._arguments.model(spec, fields)}
        return ModelView.model_validate_json(self._link.send("POST", "/v1/models", json=document).content)

    def inspect(self, model: Any, *, check: bool = True, timeout: float | None = 120.0) -> Inspection:
        """Looks at a model: layout, sizes, whether it is trained, what each method would cost. Registers nothing.

        Args:
            model: A reference such as ``"digits-mlp@1"``, or a spec, whose files and arrays are uploaded.
            check: Whether a worker takes loss and gradient at the first eight training points, in a job of its own
                that is deleted afterwards.
            timeout: Seconds to wait for that; without an answer the rest is returned all the same.

        Raises:
            ModelNotFound: There is none of this name.
            InvalidInput: The spec does not fit its files.
        """
        known = model if isinstance(model, str) else ModelSpec.model_validate(self._arguments.model(model, {}))
        return inspect_model(self, known, check=check, timeout=timeout)

    def methods(self) -> list[MethodView]:
        """The inversion methods, with the schemas of their options."""
        return MethodList.model_validate_json(self._link.send("GET", "/v1/methods").content).methods

    # Jobs

    def submit(
        self,
        *,
        model: Any,
        rhs: Any,
        method: str | InversionMethod = InversionMethod.Cg,
        hessian_perturbation: float | str | Mapping[str, float] = 0.0,
        options: Mapping[str, Any] | None = None,
        curvature: str | Curvature = Curvature.Hessian,
        influence: bool | Mapping[str, Any] = False,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        priority: str | None = None,
        webhook: str | Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> JobView:
        """Submits a job: (H + λI) x = b for one or more right-hand sides b.

        The request carries a key of its own, so that one whose answer was lost is repeated and still makes one job.

        Args:
            model: A reference such as ``"digits-mlp@1"``, or a spec.
            rhs: An array ``[p]`` or ``[k, p]``, a mapping of parameter names to arrays, a digest, URI or file, or
                ``{"gradient_of": {"inputs": …, "targets": …}}``. Large arrays are uploaded as blobs.
            method: Name of the inversion method.
            hessian_perturbation: λ; or ``"auto"``, the smallest that makes H + λI safely positive definite; or a
                mapping of shell patterns over parameter names to λ, of which the last that matches counts.
            options: The method's options.
            curvature: What H is: ``"hessian"``, ``"ggn"``, ``"fisher"``, ``"mc_fisher"``, ``"empirical_fisher"``.
            influence: True asks for the scores of all training points.
            tags: Labels to find the job by.
            deadline_s: Seconds until the job expires.
            priority: ``"low"``, ``"normal"`` or ``"high"``.
            webhook: A URL that is told of the job's end, or ``{"url": …, "events": ["job.finished", …]}``.
            idempotency_key: Makes the job once however often, and from however many processes, it is submitted under
                this key; left out, one is drawn for this call.

        Raises:
            IdempotencyMismatch: The key was used for another job.
            QueueFull: Too many jobs wait.
        """
        sent = self._arguments.submission(
            model=model,
            rhs=rhs,
            method=method,
            hessian_perturbation=hessian_perturbation,
            options=options,
            curvature=curvature,
            influence=influence,
            tags=tags,
            deadline_s=deadline_s,
            priority=priority,
            webhook=webhook,
        )
        headers = {IDEMPOTENCY_KEY: idempotency_key or str(uuid4())}
        return JobView.model_validate_json(self._link.send("POST", "/v1/jobs", json=sent, headers=headers).content)

    def predict(self, *, model: Any, rhs: Any, **submission: Any) -> PredictionView:
        """What a job would take, by each method, without submitting it; it is checked as ``submit`` would be.

        Arrays that ``submit`` would upload as blobs are uploaded.

        Args:
            model: As for ``submit``.
            rhs: As for ``submit``.
            **submission: Further arguments of ``submit``.
        """
        sent = self._arguments.submission(model=model, rhs=rhs, **submission)
        answer = self._link.send("POST", "/v1/jobs", json=sent, params={"dry_run": "true"})
        return PredictionView.model_validate_json(answer.content)

    def job(self, job_id: str) -> JobView:
        """The job as it stands now.

        Raises:
            JobNotFound: No job has this id.
        """
        return JobView.model_validate_json(self._link.send("GET", job_path(job_id)).content)

    def jobs(
        self,
        *,
        state: str | JobState | None = None,
        method: str | None = None,
        model: str | None = None,
        tags: Mapping[str, str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 100,
    ) -> Iterator[JobView]:
        """All jobs that pass the filters, newest first; pages are fetched as they are needed."""
        query = {
            "state": state.value if isinstance(state, JobState) else state,
            "method": method,
            "model": model,
            "tag": [f"{name}:{value}" for name, value in (tags or {}).items()] or None,
            "created_after": created_after.isoformat() if created_after else None,
            "created_before": created_before.isoformat() if created_before else None,
            "limit": page_size,
        }
        for page in self._link.pages("/v1/jobs", JobPage, query):
            yield from page.jobs

    def wait(
        self,
        job_id: str,
        timeout: float | None = None,
        on_progress: Callable[[JobView], None] | None = None,
    ) -> JobView:
        """The job once it has ended, however it ended.

        Args:
            job_id: The job.
            timeout: Seconds after which to give up; None waits for ever.
            on_progress: Called with the job first as it stands, then at each change.

        Raises:
            WaitTimeout: It has not ended in time. It goes on; wait again or cancel it.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        hold, etag = 0.0, ""
        while True:
            answer = self._link.send(
                "GET",
                job_path(job_id),
                params={"wait": hold or None},
                headers={"If-None-Match": etag} if etag else None,
                hold_s=hold,
            )
            if answer.status_code != httpx.codes.NOT_MODIFIED:
                etag = answer.headers.get("etag", "")
                job = JobView.model_validate_json(answer.content)
                if on_progress is not None:
                    on_progress(job)
                if job.state in TERMINAL:
                    return job
            left = POLL_S if give_up is None else give_up - time.monotonic()
            if left <= 0:
                raise WaitTimeout(
                    f"Job {job_id} did not end within {timeout:g} s.",
                    given=f"it is {job.state.value}",
                    hint="It goes on: wait again, or cancel it.",
                )
            hold = min(POLL_S, left)

    def events(self, job_id: str, after: str | None = None) -> Iterator[JobEvent]:
        """The job's transitions and progress as they happen, up to the one that ends it.

        A dropped connection is resumed without loss.

        Args:
            job_id: The job.
            after: Id of the last event that was seen; None starts with the first.

        Raises:
            JobNotFound: No job has this id, or it was deleted meanwhile.
        """
        while True:
            position = after
            try:
                with self._link.events(f"{job_path(job_id)}/events", after=after) as stream:
                    for sent in stream:
                        event = JobEvent(id=sent.id, type=sent.event, data=sent.json())
                        after = event.id
                        yield event
                        if event.type == "state" and JobState(event.data["state"]) in TERMINAL:
                            return
            except httpx.TransportError:
                continue  # torn; the service may be restarting
            if after == position and self.job(job_id).state in TERMINAL:
                return  # there is nothing after the last event that was seen

    def cancel(self, job_id: str) -> JobView:
        """Asks a job to stop; it never turns succeeded afterwards.

        Raises:
            JobNotFound: No job has this id.
            JobAlreadyFinished: There is nothing left to stop.
        """
        return JobView.model_validate_json(self._link.send("POST", f"{job_path(job_id)}/cancel").content)

    def rerun(
        self,
        job: str | PathLike[str],
        timeout: float | None = None,
        on_progress: Callable[[JobView], None] | None = None,
    ) -> Rerun:
        """Runs a job again exactly as it was resolved, waits for it, and holds both results side by side.

        Args:
            job: The job's id; or a file with its result, whose provenance then takes the place of its record.
            timeout: As for ``wait``.
            on_progress: As for ``wait``.

        Raises:
            JobNotFound: No job has this id, or it was removed.
            UnknownBlob: Weights, data or right-hand sides are gone.
            InvalidInput: The file holds no result, or one that does not say what it was made of.
            JobFailed: The second run ended without a result.
            WaitTimeout: It has not ended in time.
        """
        if isinstance(job, PathLike):
            saved = read_saved(Path(job))
            first, reason = saved.result, "the file is without x"
            again = self.submit(**submission_of(saved.provenance))
        else:
            try:
                first, reason = self.result(job), ""
            except (JobNotFinished, NoResult, ResultExpired) as error:
                first, reason = None, error.message  # it can be run again all the same
            answer = self._link.send("POST", f"{job_path(job)}/rerun", headers={IDEMPOTENCY_KEY: str(uuid4())})
            again = JobView.model_validate_json(answer.content)
        ended = self.wait(again.id, timeout, on_progress)
        raise_unless_succeeded(ended)
        return compare(first, self.result(ended.id), reason)

    def delete(self, job_id: str) -> None:
        """Removes a finished job and its result.

        Raises:
            JobNotFound: No job has this id.
            JobNotFinished: Cancel it first.
        """
        self._link.delete(job_path(job_id))

    def solve(
        self,
        *,
        model: Any,
        rhs: Any,
        timeout: float | None = None,
        progress: bool = True,
        **submission: Any,
    ) -> SolveResult:
        """Submits a job, waits for it and returns its result.

        Args:
            model: As for ``submit``.
            rhs: As for ``submit``.
            timeout: Seconds to wait; None waits for ever.
            progress: Whether to show a progress bar on the terminal.
            **submission: Further arguments of ``submit``.

        Raises:
            JobFailed: The job ended without a result; its ``reason`` is the job's own error.
            WaitTimeout: It has not ended in time.
        """
        job = self.submit(model=model, rhs=rhs, **submission)
        if progress:
            from ihvp.client.progress import ProgressBar

            with ProgressBar() as bar:
                job = self.wait(job.id, timeout, bar.show)
        else:
            job = self.wait(job.id, timeout)
        raise_unless_succeeded(job)
        return self.result(job.id)
