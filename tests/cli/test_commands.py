"""The commands without a service: help, quick start, exit statuses, one message and never a stack trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ihvp import __version__, errors
from ihvp.cli.exit_codes import ExitCode, exit_code_of
from ihvp.settings import child_environment
from ihvp.up.embedded_store import free_port

COMMANDS = ["up", "submit", "status", "watch", "result", "cancel", "jobs", "models", "methods", "blobs put", "doctor"]
COMMANDS += ["models register", "models show", "keys create", "keys list", "keys revoke"]
COMMANDS += ["webhooks deliveries", "webhooks replay"]
COMMANDS += ["webhooks secret create", "webhooks secret rotate", "webhooks secret list"]
COMMANDS += ["quarantine list", "quarantine lift", "rerun", "plugin new", "inspect", "start", "prepare", "healthy"]


def ihvp(*arguments: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ihvp.cli", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=60,
        env=child_environment(**settings) | {"COLUMNS": "200", "NO_COLOR": "1"},
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    done = ihvp(*command.split(), "--help")
    assert done.returncode == 0
    assert f"Example: ihvp {command}" in " ".join(done.stdout.split())


def test_help_ends_its_lines_where_the_terminal_does() -> None:
    assert "What is wrong is one line and status 2. A store" in ihvp("start", "--help").stdout


def test_help_lists_the_exit_statuses() -> None:
    said = " ".join(ihvp("--help").stdout.split())
    for code in ExitCode:
        assert f" {int(code)} " in said or said.endswith(f"{int(code)} interrupted.")


def test_version() -> None:
    assert ihvp("--version").stdout == f"{__version__}\n"


def test_help_imports_nothing_that_it_does_not_need() -> None:
    program = (
        "import sys\n"
        "import ihvp.cli.main\n"
        "heavy = {'httpx', 'numpy', 'pydantic', 'safetensors', 'torch', 'redis'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "job_1"],
        ["jobs"],
        ["models"],
        ["methods"],
        ["watch", "job_1"],
        ["submit", "-m", "m", "--rhs", "sha256:" + "0" * 64],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_service_is_status_4_and_one_line_that_says_how_to_start_it(arguments: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = ihvp(*arguments, url=url)
    assert done.returncode == 4
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert url in line
    assert "ihvp up" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit"], "A job needs --model and --rhs"),
        (["submit", "-m", "m", "--rhs", "no-such-file.npy"], "no-such-file.npy: No such file"),
        (["submit", "-m", "m", "--rhs", "a.npy", "--gradient-of", "x.npy", "y.npy"], "not both"),
        (["submit", "-m", "m", "--rhs", "a.npy", "-o", "rtol"], "--option takes name=value"),
        (["submit", "-m", "m", "--rhs", "a.npy", "--lambda", "small"], "a number, auto, or PATTERN=number"),
        (["submit", "-m", "m", "--rhs", "a.npy", "--lambda", "*=small"], "a number, auto, or PATTERN=number"),
        (["submit", "-m", "m", "--rhs", "a.npy", "--lambda", "1", "--lambda", "2"], "one for each pattern"),
        (["submit", "-m", "m", "--rhs", "a.npy", "--dry-run", "--wait"], "Leave one of them out"),
        (["submit", "no-such-file.json"], "no-such-file.json: No such file"),
        (["submit", "-"], "- is not JSON"),
        (["result", "job_1", "-o", "x.csv"], ".npy, .safetensors"),
        (["models", "register", "m", "--inputs", "x.npy"], "both --inputs and --targets"),
        (["methods", "magic"], "No inversion method has this name"),
        (["models", "show", "Not A Name"], "not a model reference"),
        (["status"], "Missing argument"),
        (["no-such-command"], "No such command"),
        (["up", "--port", "99999"], "65535"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_usage_is_status_2_and_says_what_is_wrong(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = ihvp(*arguments, url=f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_a_submission_is_read_from_standard_input_and_its_fields_are_checked() -> None:
    done = ihvp("submit", "-", stdin=json.dumps({"model": "m", "rhs": {"inline": [1.0]}, "metod": "cg"}))
    assert done.returncode == 2
    assert "metod" in done.stderr
    assert "method" in done.stderr


def test_a_setting_that_cannot_be_is_no_stack_trace() -> None:
    done = ihvp("jobs", port="many")
    assert done.returncode == 2
    assert "IHVP_PORT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RhsShapeMismatch, ExitCode.InvalidInput),
        (errors.SetupError, ExitCode.InvalidInput),
        (errors.JobNotFound, ExitCode.NotFound),
        (errors.ResultExpired, ExitCode.NotFound),
        (errors.ServiceUnreachable, ExitCode.Unavailable),
        (errors.StoreUnavailable, ExitCode.Unavailable),
        (errors.WaitTimeout, ExitCode.Timeout),
        (errors.JobFailed, ExitCode.Failed),
        (errors.JobNotFinished, ExitCode.Failed),
    ],
)
def test_each_kind_of_error_has_its_status(error: type[errors.IhvpError], code: ExitCode) -> None:
    assert exit_code_of(error("No.")) is code
