"""The only reader of the environment: every setting of the service, its default and its meaning."""

from __future__ import annotations

import os
import re
import warnings
from base64 import b64encode
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from ihvp.cores import usable_cores
from ihvp.errors import SetupError

__all__ = ["SPINS", "Settings", "child_environment", "get_settings", "let_waiting_threads_sleep"]

MIB = 1024 * 1024
GIB = 1024 * MIB

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


SECRETS_DIR: Final = Path("/run/secrets")
_TAKES_STORE_PASSWORD: Final = ("redis", "rediss", "unix", "redis+socket", "valkey", "valkeys")


class Settings(BaseSettings):
    """Settings of all processes, each read from ``IHVP_<NAME>``, else from the file of that name among the secrets."""

    model_config = SettingsConfigDict(env_prefix="IHVP_", extra="ignore", frozen=True)

    secrets_dir: Path = Field(
        SECRETS_DIR,
        description="Folder whose files are settings too, such as `ihvp_store_password`; a variable wins over a file.",
    )
    # Before the URLs, which are checked with it at hand.
    store_password: SecretStr | None = Field(
        None, description="Password of the store and of the broker, put into their URLs where these carry none."
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", validate_default=True, description="Job store: Valkey or Redis ≥ 7.0."
    )
    broker_url: str | None = Field(None, description="Celery's broker. Left out: the store's server, next database.")
    namespace: str = Field("ihvp", pattern=r"^[a-z0-9-]{1,32}$", description="Prefix of every key and queue name.")
    data_dir: Path = Field(Path("ihvp-data"), description="Folder of the blobs (and of the embedded store).")
    host: str = Field("127.0.0.1", description="Address the API binds.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API binds; 0 picks a free one.")
    publish: str | None = Field(
        None,
        pattern=r"^(.*:)?[0-9]*$",
        description="Where a container's port is published, as Docker writes it: `127.0.0.1:8000`, or `8000` for all "
        "addresses. Says who reaches the API; left out: `IHVP_HOST` does.",
    )
    url: str = Field("http://127.0.0.1:8000", description="Where the CLI and the client find the API.")
    api_key: SecretStr | None = Field(
        None, description="API key that the CLI and the client send; needed once one was made."
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern="^https?://.+",
        description="Base URL of a collector that takes OpenTelemetry traces (OTLP over HTTP). "
        "Left out: what `OTEL_EXPORTER_OTLP_ENDPOINT` says; without either no traces are made.",
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Least level logged.")

    lease_s: Seconds = Field(30.0, description="A running job whose lease is older is taken from its worker.")
    lease_renew_s: Seconds = Field(5.0, description="How often a worker renews the lease of its job.")
    max_attempts: Count = Field(3, description="Workers that may die on a job before it fails.")
    quarantine_s: float = Field(
        600.0,
        ge=0,
        description="How long a method that killed max_attempts workers on a model does not run on it; 0: never.",
    )
    reconcile_interval_s: Seconds = Field(1.0, description="Pause between two rounds of the reconciler.")
    worker_alive_s: Seconds = Field(15.0, description="A worker not heard of for longer counts as gone.")
    canary_s: Seconds = Field(
        30.0, description="A worker that took a message longer ago is sent another, to see whether it still does."
    )
    progress_interval_s: Seconds = Field(0.25, description="Least time between two progress events of a job.")
    event_limit: Count = Field(
        1000, description="Events kept for a job; past it old progress goes, never a change of state."
    )
    checkpoint_s: Seconds = Field(10.0, description="How often the state of a running solve is saved.")
    stop_grace_s: Seconds = Field(
        10.0,
        description="Seconds a worker may take to stop a cancelled or overdue job before its process is killed.",
    )
    store_timeout_s: Seconds = Field(5.0, description="Longest wait for an answer of the store.")
    start_wait_s: float = Field(
        60.0, ge=0, description="How long a part that `ihvp start` starts waits for the store to be there."
    )
    alive_file: Path | None = Field(
        None,
        description="File that a part touches while it lives, for `ihvp healthy`. Left out: one in the folder for "
        "temporary files, if `ihvp start` has started the part.",
    )

    threads: int = Field(0, ge=0, description="Threads of a worker's solves; 0: cores shared among workers.")
    workers: Count = Field(1, description="Workers that share this machine's cores.")
    device: str = Field(
        "cpu",
        pattern=r"^(cpu|auto|cuda(:[0-9]{1,2})?)$",
        description="Where workers solve: cpu, cuda, cuda:1 and so on; auto takes a GPU where there is one.",
    )
    memory_budget: Bytes = Field(
        4 * GIB, description="Bytes a solve may plan for: dense Hessians, kept linearisations."
    )
    cache_bytes: Bytes | None = Field(
        None, description="Bytes of the models a worker keeps warm between jobs. Left out: half of the memory budget."
    )
    coalesce_rhs: Count = Field(
        64, description="Right-hand sides up to which a worker solves waiting jobs on one system together; 1: never."
    )
    allow_exports: bool = Field(
        False, description="Whether a model may be a program of torch.export (weights export://…): docs/exported.md."
    )
    architectures: tuple[str, ...] = Field(
        (), description="Plug-in architectures to accept although the API's own environment lacks them."
    )
    losses: tuple[str, ...] = Field(
        (), description="Plug-in losses to accept although the API's own environment lacks them."
    )

    source_roots: tuple[Path, ...] = Field(
        (), description="Folders whose files `file://` references may name; the same ones for the API and the workers."
    )
    source_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts that `https://` references may name, if their addresses are public: `data.example.org`, "
        "`*.example.org`, or `*` for any.",
    )
    source_private_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts, addresses and networks that `https://` and `http://` references may name although they "
        "are private.",
    )
    source_buckets: tuple[str, ...] = Field(
        (),
        description="Where `s3://` and `gs://` references may lead: `s3://bucket`, or `gs://bucket/folder`.",
    )
    hf_endpoint: str | None = Field(
        None,
        pattern="^https?://.+",
        description="Where `hf://` references lead, such as `https://huggingface.co`. Left out: nowhere.",
    )
    mlflow_tracking_uri: str | None = Field(
        None,
        pattern="^https?://.+",
        description="MLflow's tracking server that `mlflow://` references lead to. Left out: none.",
    )
    source_timeout_s: Seconds = Field(
        10.0, description="Longest wait for an answer of a place that holds referenced files."
    )
    source_resolve_s: Seconds = Field(
        15.0, description="Longest time that a submission's references may take to be found and pinned."
    )
    source_fetch_s: Seconds = Field(3600.0, description="Longest time that a worker fetches one file.")
    load_s: Seconds = Field(
        900.0, description="Longest time that a worker loads a model and its data, once their files are there."
    )
    load_memory: Bytes | None = Field(
        None,
        description="Bytes of memory that loading may take, mapped files not counted. Left out: nine tenths of what "
        "is free when it begins.",
    )
    load_network: bool = Field(
        False, description="Whether code of plug-ins and libraries may open connections while a model is loaded."
    )
    max_source_bytes: Bytes = Field(8 * GIB, description="Largest file that a reference may name.")
    source_cache_bytes: Bytes = Field(
        20 * GIB, description="Bound on the referenced files that workers keep on the disk, the oldest out first."
    )

    max_body_bytes: Bytes = Field(16 * MIB, description="Largest JSON body.")
    max_blob_bytes: Bytes = Field(8 * GIB, description="Largest blob.")
    max_uploads: Count = Field(1000, description="Uploads in parts that may be under way at a time.")
    upload_expiry_s: Seconds = Field(
        24 * 3600.0, description="How long an upload in parts may rest before it cannot be continued any more."
    )
    max_store_bytes: Bytes = Field(50 * GIB, description="Bound on all blobs together.")
    keep_free_bytes: int = Field(
        GIB, ge=0, description="Bytes of the disk that blobs leave free: the job store's log grows beside them."
    )
    max_unpacked_bytes: Bytes = Field(
        16 * GIB,
        description="Largest array that a worker unpacks, in a file without a name under its data directory: a column "
        "of a Parquet or Arrow file, a deflated npz member.",
    )
    factor_bytes: Bytes = Field(
        5 * GIB,
        description="Bound on the sketches and factorisations that workers keep for each other among the blobs.",
    )
    max_inline_elements: Count = Field(100_000, description="Most numbers of x sent inline in a JSON result.")
    max_rhs_columns: Count = Field(1024, description="Most right-hand sides of one job.")
    max_queue: Count = Field(100_000, description="Jobs that may wait; a submission past them is answered with 429.")
    tenant_rate: Count | None = Field(
        None, description="Requests a second of one tenant, counted by each API process; past them it is 429."
    )
    tenant_held: Count = Field(
        10_000, description="Long polls and event streams of one tenant that an API process holds at a time."
    )
    tenant_queue: Count | None = Field(None, description="Jobs of one tenant that may wait.")
    tenant_bytes: Bytes | None = Field(
        None, description="Bytes of blobs that one tenant may hold; past them it uploads and submits nothing."
    )
    tenant_rhs_numbers: Count | None = Field(
        None, description="Numbers of right-hand sides (k times p) that one tenant may submit in an hour."
    )
    idempotency_s: Seconds = Field(
        24 * 3600.0, description="How long an Idempotency-Key is remembered, and answers with the job it made."
    )
    max_wait_s: Seconds = Field(15.0, description="Longest hold of a ?wait= or Prefer: wait= request.")
    webhook_allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts, addresses and networks that webhooks may reach although they are private, over http too.",
    )
    webhook_pauses_s: tuple[Seconds, ...] = Field(
        (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0),
        min_length=1,
        max_length=30,
        description="Pauses between the tries of a webhook's delivery; after the last it is dead.",
    )
    webhook_timeout_s: Seconds = Field(15.0, description="Longest time that one try of a delivery may take.")
    webhook_concurrency: int = Field(
        16, gt=0, le=1000, description="Deliveries sent at once by a sender; a quarter of them to one host."
    )
    webhook_overlap_s: float = Field(
        24 * 3600.0, ge=0, description="How long a secret still signs after its rotation, unless that says otherwise."
    )
    webhook_retention_s: Seconds = Field(
        7 * 24 * 3600.0, description="How long a delivery is kept after it has arrived or is dead."
    )
    retention_s: Seconds = Field(
        7 * 24 * 3600.0, description="How long a finished job keeps its result, and an unused factor its blob."
    )
    job_retention_s: Seconds = Field(
        30 * 24 * 3600.0, description="How long a finished job itself is kept, with its events; then it is 404."
    )
    orphan_grace_s: Seconds = Field(
        24 * 3600.0, description="Age from which a blob that nothing refers to is removed."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where settings come from, the first wins: arguments, variables, files in the folder that these name."""
        del dotenv_settings, file_secret_settings
        folder = Path(init_settings().get("secrets_dir") or env_settings().get("secrets_dir") or SECRETS_DIR)
        found = (init_settings, env_settings)
        # One that is not there holds no secrets: most machines have none.
        return (*found, SecretsSettingsSource(settings_cls, secrets_dir=folder)) if folder.is_dir() else found

    @field_validator("store_password")
    @classmethod
    def _refuse_empty_password(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value():
            raise ValueError("It is empty. Put the store's password there, or take the file or variable away.")
        return value

    @field_validator("redis_url", "broker_url")
    @classmethod
    def _put_password_in(cls, url: str | None, info: ValidationInfo) -> str | None:
        password: SecretStr | None = info.data.get("store_password")
        return url if url is None or password is None else _with_password(url, password.get_secret_value())

    def with_patience(self, seconds: float) -> Settings:
        """The same, where nobody waits longer for the store than so many seconds."""
        return self.model_copy(update={"store_timeout_s": min(self.store_timeout_s, seconds)})

    @property
    def resolved_broker_url(self) -> str:
        """The broker's URL; by default the database after the store's, so that flushing it loses no job."""
        if self.broker_url is not None:
            return self.broker_url
        parts = urlsplit(self.redis_url)
        database = int(parts.path.strip("/") or 0)
        return urlunsplit(parts._replace(path=f"/{database + 1}"))

    @property
    def tracing(self) -> bool:
        """Whether traces are made: where a collector is named, here or in OpenTelemetry's own way."""
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return False
        standard = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        return self.otlp_endpoint is not None or any(os.environ.get(name) for name in standard)

    @property
    def queue_name(self) -> str:
        """The Celery queue that wakes workers."""
        return f"{self.namespace}-solve"

    @property
    def webhook_queue_name(self) -> str:
        """The Celery queue that wakes the sender of webhooks."""
        return f"{self.namespace}-webhooks"

    @property
    def blob_dir(self) -> Path:
        """Folder of the filesystem blob store."""
        return self.data_dir / "blobs"

    @property
    def mlflow_authorization(self) -> str | None:
        """What a request to MLflow's tracking server is authorised by: what its own variables hold, if anything."""
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
        if token:
            return f"Bearer {token}"
        basic = b64encode(f"{user}:{password or ''}".encode()).decode()
        return f"Basic {basic}" if user else None

    @property
    def hugging_face_token(self) -> str | None:
        """The token that ``huggingface_hub`` would find, for where that is not installed: the API's image."""
        token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
        home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
        path = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
        with suppress(OSError):  # the hub says who may not read
            token = token or path.read_text(encoding="utf-8")
        return (token or "").strip() or None

    @property
    def source_cache_dir(self) -> Path:
        """Folder of the files that were fetched for references."""
        return self.data_dir / "sources"

    @property
    def scratch_dir(self) -> Path:
        """Folder of the files that workers unpack data into."""
        return self.data_dir / "scratch"

    @property
    def cache_budget(self) -> int:
        """Bytes of the models that a worker keeps warm."""
        return self.cache_bytes or self.memory_budget // 2

    @property
    def threads_per_worker(self) -> int:
        """Threads a worker gives its solves."""
        return self.threads or max(1, usable_cores() // self.workers)


def _with_password(url: str, password: str) -> str:
    """A server's URL with the password, where it carries none and its kind of server takes one."""
    parts = urlsplit(url)
    if parts.scheme not in _TAKES_STORE_PASSWORD or parts.password or "password" in parse_qs(parts.query):
        return url
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{parts.username or ''}:{quote(password, safe='')}@{host}"
    return f"{parts.scheme}://{netloc}{url.partition('://')[2][len(parts.netloc) :]}"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """This process's settings, read once.

    Raises:
        SetupError: A variable or a file has a value that its setting cannot have, or a file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            # A secret that is a folder or leads elsewhere would only be warned of, and then be missing.
            warnings.simplefilter("error", UserWarning)
            return Settings()
    except ValidationError as error:
        faults = [f"IHVP_{str(fault['loc'][0]).upper()}: {_said(fault['msg'])}" for fault in error.errors()]
        raise SetupError(f"{'; '.join(faults)}.", hint="docs/settings.md says what each setting takes.") from None
    except SettingsError as error:
        raise _unreadable(error) from None


def _unreadable(error: SettingsError) -> SetupError:
    """What is wrong with a variable or a file that holds no value at all."""
    name = re.search(r'field "(\w+)"', str(error))
    setting = f"IHVP_{name[1].upper()}" if name else "A setting"
    cause = error.__cause__
    if isinstance(cause, OSError | UserWarning | UnicodeDecodeError):
        said = cause.strerror if isinstance(cause, OSError) else str(cause).rstrip(".")
        if isinstance(cause, UnicodeDecodeError):  # whose own words show a byte of it
            said = "it is no text"
        return SetupError(
            f"{setting}: its file among the secrets cannot be read: {said}.",
            hint="It has to be a file of text that this user can read; in a container that is user and group 10001.",
        )
    return SetupError(f"{setting} is a list, and is not written as one.", hint='Write it in JSON, such as ["a", "b"].')


def _said(message: str) -> str:
    return message.removeprefix("Value error, ").rstrip(".")


SPINS: Final = "10000"
"""Turns of a waiting OpenMP thread before it sleeps: some tens of microseconds."""


def child_environment(**overrides: str) -> dict[str, str]:
    """This process's environment for a child process, with ``IHVP_*`` variables overridden.

    Args:
        **overrides: Lower-case setting names and their values.
    """
    return {**os.environ, **{f"IHVP_{name.upper()}": value for name, value in overrides.items()}}


def let_waiting_threads_sleep() -> None:
    """Has this process's OpenMP threads sleep soon while they wait for each other; call it before torch is imported.

    By default they spin for milliseconds. On cores that other processes want too, a thread then burns the time slice
    that the one it waits for needs: a Hessian-vector product was seen to take 350 ms instead of 15. Sleeping at once
    costs half as much again where the cores are free, for an operation often takes less time than waking does. Some
    microseconds of spinning are right in both cases. ``OMP_WAIT_POLICY`` and ``GOMP_SPINCOUNT`` in the
    environment have the last word.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
