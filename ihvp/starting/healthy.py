"""Whether the part that runs here is alive: what healthchecks of containers ask every few seconds."""

from __future__ import annotations

from http import HTTPStatus

from ihvp.settings import Settings
from ihvp.starting.alive import alive_file, patience_s, silent_s
from ihvp.starting.roles import Role
from ihvp.up.probe import ask

__all__ = ["look"]


def look(role: Role, settings: Settings) -> tuple[bool, str]:
    """Whether it is, and one line on it.

    Args:
        role: Which part.
        settings: Those of the part.
    """
    if role is Role.Api:
        where = f"{settings.host}:{settings.port}"
        answer = ask(settings.host, settings.port, "/healthz")
        if answer is None:
            return False, f"the API does not answer at {where}"
        return answer.status == HTTPStatus.OK, f"the API answers {answer.status} at {where}"
    path, most_s = alive_file(settings, role), patience_s(settings)
    age_s = silent_s(path)
    if age_s is None:
        return False, f"the {role.value} has not started here: there is no {path}"
    if age_s > most_s:
        return False, f"the {role.value} has shown no sign of life for {age_s:.0f} s, of {most_s:.0f} s at most"
    return True, f"the {role.value} showed a sign of life {age_s:.0f} s ago"
