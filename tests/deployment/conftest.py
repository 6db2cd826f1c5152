"""The images, built; the compose file, up from nothing; and the table of what was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.containers.base import base_images
from scripts.containers.build import BuiltImage, build_images
from scripts.containers.commands import Skipped
from scripts.containers.engine import Engine, prepared
from tests.deployment.deployment import Deployment
from tests.deployment.report import Report

REPORT = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    """Makes room for the table."""
    config.stash[REPORT] = Report()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keeps the table of a whole run that found nothing wrong."""
    whole = not session.config.option.keyword and all(Path(arg).is_dir() for arg in session.config.args)
    report = session.config.stash[REPORT]
    if report.rows and whole and not session.testsfailed:
        report.write()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the table."""
    report = config.stash[REPORT]
    if report.rows:
        terminalreporter.section("containers")
        terminalreporter.write_line(str(report))


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """Takes the rows of the table."""
    return request.config.stash[REPORT]


@contextmanager
def _skipped_where_impossible() -> Iterator[None]:
    try:
        yield
    except Skipped as skipped:
        pytest.skip(str(skipped))


@pytest.fixture(scope="session")
def engine() -> Engine:
    """buildah and podman of this checkout's own."""
    with _skipped_where_impossible():
        return prepared()


@pytest.fixture(scope="session")
def docker(engine: Engine) -> Iterator[Mapping[str, str]]:
    """The environment by which docker's client finds podman."""
    with engine.service() as environment:
        yield environment


@pytest.fixture(scope="session")
def images(engine: Engine, report: Report) -> list[BuiltImage]:
    """Those of the default profile, built from this tree."""
    with _skipped_where_impossible():
        report.base = ", ".join(f"{name} ({origin})" for name, origin in base_images(engine).items())
        built = build_images(engine)
    for each in built:
        took = f"built in {each.seconds:.0f} s"
        report.add(f"image `{each.image.name}`", f"{each.megabytes:.0f} MB of {each.image.most_mb}, {took}")
    return built


@pytest.fixture(scope="session")
def deployment(
    engine: Engine,
    docker: Mapping[str, str],
    images: list[BuiltImage],
    tmp_path_factory: pytest.TempPathFactory,
    report: Report,
) -> Iterator[Deployment]:
    """The whole service, up from nothing with one command."""
    folder: Path = tmp_path_factory.mktemp("ihvp-deployed")
    deployment = Deployment(engine, docker, folder)
    try:
        report.add("`docker compose up -d --wait`, until all is healthy", f"{deployment.up():.1f} s")
        yield deployment
    finally:
        deployment.down("--volumes")
