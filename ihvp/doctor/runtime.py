"""Python, torch and the device that workers solve on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any, Final

from ihvp.cores import usable_cores
from ihvp.doctor.finding import Finding
from ihvp.settings import Settings
from ihvp.surroundings import in_api_image, in_container, in_our_image, setting, without_setting

__all__ = ["look_at_device", "look_at_python", "look_at_torch", "torch_facts"]

OLDEST: Final = (3, 11)
IMPORT_TIMEOUT_S: Final = 120.0
ASK_TORCH: Final = """
import json, torch
cuda = torch.cuda.is_available()
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({
    "version": torch.__version__, "built_for_cuda": torch.version.cuda,
    "devices": [{"name": d.name, "bytes": d.total_memory} for d in devices],
}))
"""
CUDA_BUILD: Final = "pip install torch --index-url https://download.pytorch.org/whl/cu128"


def look_at_python(version: tuple[int, int, int] | None = None, prefix: str | None = None) -> Finding:
    """The interpreter, and whether it is of an environment of its own.

    Args:
        version: Its version; this one's if left out.
        prefix: Where its packages are; this one's if left out.
    """
    found = version or sys.version_info[:3]
    name = f"{'.'.join(map(str, found))} at {prefix or sys.prefix}"
    if found[:2] < OLDEST:
        return Finding.fault("python", name, "install Python 3.11 or newer, then: make clean setup")
    own = (prefix or sys.prefix) != sys.base_prefix
    if not own and not in_container():
        return Finding.warning("python", f"{name}, which other programs share", "make setup, and .venv/bin/ihvp")
    return Finding.good("python", name)


def torch_facts(command: str = ASK_TORCH) -> dict[str, Any]:
    """What torch says of itself in a process of its own: this room does not import it, and CUDA may hang.

    Args:
        command: The program; prints one JSON object.

    Returns:
        ``version``, ``built_for_cuda``, ``devices``; or ``error``; empty where there is no torch.
    """
    if find_spec("torch") is None:
        return {}
    try:
        asked = subprocess.run(
            [sys.executable, "-c", command], capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"importing it takes more than {IMPORT_TIMEOUT_S:.0f} s"}
    lines = asked.stdout.strip().splitlines()
    if asked.returncode != 0 or not lines:
        last = (asked.stderr.strip().splitlines() or [f"it ended with status {asked.returncode}"])[-1]
        return {"error": last[:200]}
    facts: dict[str, Any] = json.loads(lines[-1])
    return facts


def look_at_torch(facts: dict[str, Any]) -> Finding:
    """Whether torch is there and can be imported.

    Args:
        facts: See ``torch_facts``.
    """
    if not facts and in_api_image():
        return Finding.good("torch", "left out of this image, as it should be: workers have their own")
    if not facts:
        return Finding.warning(
            "torch",
            "not installed: this is the client alone, and no worker runs here",
            "pip install 'ihvp[worker]' -c constraints.txt, or: make setup",
        )
    if "error" in facts:
        mend = "pip install --force-reinstall torch -c constraints.txt"
        if in_our_image():
            mend = "on the host: docker compose build --no-cache worker"
        return Finding.fault("torch", str(facts["error"]), mend)
    build = f"CUDA {facts['built_for_cuda']}" if facts["built_for_cuda"] else "CPU"
    return Finding.good("torch", f"{facts['version']}, built for {build}")


def look_at_device(settings: Settings, facts: dict[str, Any]) -> Finding:
    """Whether the device that the settings name is there.

    Args:
        settings: ``IHVP_DEVICE`` and the number of workers.
        facts: See ``torch_facts``.
    """
    wanted, devices = settings.device, facts.get("devices", [])
    if not facts and in_api_image():
        return Finding.good("device", f"{wanted}, for workers: they see it from their own containers")
    named = ", ".join(f"{d['name']} ({d['bytes'] / 2**30:.0f} GiB)" for d in devices)
    if wanted.startswith("cuda"):
        index = int(wanted.partition(":")[2] or 0)
        if index < len(devices):
            return Finding.good("device", f"{wanted}: {devices[index]['name']}")
        if devices:
            mend = setting("IHVP_DEVICE", f"cuda:{len(devices) - 1}")
            return Finding.fault("device", f"{wanted} is not there, of {named}", mend)
        return Finding.fault("device", f"{wanted}, and torch finds no GPU", _without_gpu(facts))
    if wanted == "auto" and devices:
        return Finding.good("device", f"auto: {named}")
    cores, threads = usable_cores(), settings.threads_per_worker
    found = f"cpu: {cores} cores, {settings.workers} workers of {threads} threads"
    # A container has one of the workers and the cores that it is given; the machine has them all.
    shared = (os.cpu_count() or cores) if in_our_image() else cores
    if threads > cores or settings.workers * threads > shared:
        return Finding.warning("device", f"{found}, more than there are cores", without_setting("IHVP_THREADS"))
    if devices:
        return Finding.warning("device", f"{found}; unused: {named}", setting("IHVP_DEVICE", "auto"))
    return Finding.good("device", found)


def _without_gpu(facts: dict[str, Any]) -> str:
    of_cpu = bool(facts) and not facts.get("built_for_cuda")
    if in_our_image():
        mend = (
            "COMPOSE_PROFILES=gpu in .env, for the image with CUDA"
            if of_cpu
            else "on the host: nvidia-smi, and install the driver and NVIDIA's Container Toolkit"
        )
        return f"{mend}; or neither the profile gpu nor IHVP_DEVICE=cuda in .env, to solve without one"
    mend = CUDA_BUILD if of_cpu else "nvidia-smi, and install the driver"
    return f"{mend}; or {setting('IHVP_DEVICE', 'cpu')}"
