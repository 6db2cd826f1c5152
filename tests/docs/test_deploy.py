"""docs/deploy.md: `make containers` runs its commands; here each is looked at, and each line that one sees is made."""

from __future__ import annotations

import errno
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml
from typer.main import get_command

from ihvp.cli.main import app
from ihvp.doctor.access import look_at_access
from ihvp.doctor.runtime import look_at_device
from ihvp.doctor.store import look_at_store
from ihvp.errors import SetupError
from ihvp.jobs.calls import SCHEMA_VERSION
from ihvp.settings import Settings, get_settings
from ihvp.starting.data_dir import not_written
from ihvp.starting.preparing import prepare
from ihvp.starting.refusals import refusal
from tests.containers.compose_file import composed
from tests.docs.test_documents import ROOT

TEXT = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
SERVICES = composed()["services"]
PROFILES = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
# Those of our images, whose entry point is `ihvp`.
OURS = {name for name, service in SERVICES.items() if "ihvp" in service["image"] and "entrypoint" not in service}
TAKE_A_VALUE = {"-f", "--profile", "--since", "--entrypoint", "--tail"}


def blocks() -> Iterator[tuple[str, str]]:
    """Each block of shell, with the line before it."""
    for match in re.finditer(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        yield TEXT[: match.start()].rstrip().rpartition("\n")[2], match[1]


def compose_commands() -> list[list[str]]:
    found = []
    for _, block in blocks():
        shell = re.sub(r"<<'?END'?\n.*?^END$", "", block, flags=re.MULTILINE | re.DOTALL)
        told = re.findall(r"docker compose ((?:'[^']*'|[^|>;)\n'])+)", shell)
        found += [shlex.split(re.sub(r"< \w+\.tar", "", command)) for command in told]
    return found


def test_every_block_is_run_by_make_containers_or_says_why_not() -> None:
    marks = [mark for mark, _ in blocks()]
    assert marks.count("<!-- containers -->") >= 8
    assert [m for m in marks if m != "<!-- containers -->" and not re.fullmatch(r"<!-- not run: .+ -->", m)] == []


@pytest.mark.parametrize("words", compose_commands(), ids=lambda words: " ".join(" ".join(words).split())[:60])
def test_commands_name_what_exists(words: list[str]) -> None:
    words = [word for word in words if word != "\\"]
    entrypoint, plain = None, []
    rest = iter(words)
    for word in rest:
        if plain[:1] in (["run"], ["exec"]) and len(plain) > 1:
            plain.append(word)  # what the container is told
        elif word in TAKE_A_VALUE:
            value = next(rest)
            entrypoint = value if word == "--entrypoint" else entrypoint
            assert word != "-f" or (ROOT / value).is_file()
            assert word != "--profile" or value in PROFILES
        elif not word.startswith("-"):
            plain.append(word)
    verb, *named = plain
    assert verb in {"up", "exec", "run", "ps", "stop", "down", "build", "restart", "logs"}
    if verb in {"restart", "logs"}:
        assert set(named) <= set(SERVICES)
    if verb in {"run", "exec"}:
        service, *told = named
        assert service in SERVICES
        if verb == "run" and entrypoint is None:
            assert service in OURS
            parse(told)
        elif told[:1] == ["ihvp"]:
            parse(told[1:])


def parse(words: list[str]) -> None:
    """Fails unless `ihvp` takes these."""
    group = get_command(app)
    name, *rest = words
    command = group.commands[name]  # type: ignore[attr-defined]
    while hasattr(command, "commands"):
        name, *rest = rest
        command = command.commands[name]
    command.make_context(name, list(rest))


def test_variables_and_services_of_the_text_exist() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    fixed = {"IHVP_DATA_DIR", "IHVP_SECRETS_DIR", "IHVP_HOST", "IHVP_PORT", "IHVP_URL", "IHVP_STORE_PASSWORD"}
    named = set(re.findall(r"\bIHVP_[A-Z_]+[A-Z]|\b[A-Z]+_IMAGE\b", TEXT))
    assert named - fixed <= set(re.findall(r"^#(\w+)=", example, re.MULTILINE))
    (table,) = re.findall(r"\| service \|.*?\n\n", TEXT, re.DOTALL)
    listed = set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`.+?) \|", table, re.MULTILINE))))
    assert listed == {name for name in SERVICES if name not in {"prepare-observability", "prepare-s3"}}


# What can go wrong: left column → the line as the program writes it.


@pytest.fixture(scope="module")
def rows() -> list[str]:
    table = TEXT.partition("## What can go wrong")[2]
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


def test_each_line_of_ours_is_what_one_sees(
    rows: list[str], valkey: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis.Redis.from_url(valkey.redis_url) as client:
        client.set(f"{{{valkey.namespace}}}:schema", str(SCHEMA_VERSION + 1))
    schema = look_at_store(valkey)[0]
    secrets = tmp_path / "run"
    secrets.mkdir()
    told = Settings(secrets_dir=secrets, store_password="x")
    (secrets / "ihvp_store_password").write_text("x")
    wrong = refusal(told, "valkey:6379/0", redis.exceptions.AuthenticationError("WRONGPASS invalid username-password"))
    lines = [
        f"{schema.found} {schema.mend}",
        look_at_device(Settings(device="cuda"), {"version": "2", "built_for_cuda": "12.8", "devices": []}).found,
        str(not_written(Path("/data"), OSError(errno.EROFS, "Read-only file system"))),
        str(not_written(Path("/data"), OSError(errno.EACCES, "Permission denied"))),
        str(wrong).replace(str(secrets), "/run/secrets"),
    ]
    with pytest.raises(SetupError) as missing:
        prepare(Settings(secrets_dir=Path("/proc"), data_dir=tmp_path), lambda line: None)
    lines.append(str(missing.value))
    open_to_all = valkey.model_copy(update={"publish": "0.0.0.0:8000", "namespace": f"{valkey.namespace}-b"})
    lines.append(look_at_access(open_to_all, True).found)
    (secrets / "ihvp_store_password").unlink()
    (secrets / "ihvp_store_password").mkdir()
    monkeypatch.setenv("IHVP_SECRETS_DIR", str(secrets))
    get_settings.cache_clear()
    with pytest.raises(SetupError) as unreadable:
        get_settings()
    get_settings.cache_clear()
    lines.append(str(unreadable.value))
    engines = [row for row in rows if re.search("^Bind for|device driver|^No such image", row)]
    assert len(engines) == 3
    assert [row for row in rows if row not in engines and not any(row in line for line in lines)] == []
    assert [line for line in lines if not any(row in line for row in rows)] == []


def test_the_engines_lines_are_those_that_up_sh_knows(rows: list[str]) -> None:
    script = (ROOT / "docker/up.sh").read_text(encoding="utf-8")
    patterns = re.findall(r"grep -qE '([^']+)'", script)
    for pattern in patterns:
        assert any(re.search(pattern, row) for row in rows), pattern


def test_files_that_an_operator_adds_go_with_the_compose_file() -> None:
    added = [
        yaml.safe_load(block.replace("!override ", "")) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    ]
    assert len(added) == 2
    for name, service in [pair for block in added for pair in block["services"].items()]:
        base = service.get("extends", {"file": "docker-compose.yml", "service": name})
        assert base["file"] == "docker-compose.yml"
        assert base["service"] in SERVICES
    (dockerfile,) = re.findall(r"```dockerfile\n(.*?)```", TEXT, re.DOTALL)
    assert f"FROM {SERVICES['worker']['image']}\n" in dockerfile
