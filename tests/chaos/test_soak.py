"""The soak runs, and would see a leak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.soak import Samples

ROOT = Path(__file__).parents[2]


def samples(rss: np.ndarray, descriptors: np.ndarray) -> Samples:
    made = Samples()
    made.times["api"] = list(np.linspace(0, 600, len(rss)))
    made.values["api"] = {"rss_mib": list(rss), "descriptors": list(descriptors)}
    return made


def test_a_steady_part_with_noise_and_a_warm_up_is_no_leak() -> None:
    noise = np.random.default_rng(0).normal(size=300)
    warming = 90 + 60 * np.minimum(1, np.linspace(0, 4, 300)) + 3 * noise
    assert samples(warming, 40 + np.abs(noise)).grown() == []


def test_slow_growth_is_seen_in_memory_and_descriptors() -> None:
    noise = np.random.default_rng(0).normal(size=300)
    (memory,) = samples(90 + np.linspace(0, 30, 300) + noise, np.full(300, 40.0)).grown()
    assert memory.startswith("api: rss_mib has grown by")
    (descriptors,) = samples(90 + noise, 40 + np.linspace(0, 20, 300)).grown()
    assert descriptors.startswith("api: descriptors has grown by")


@pytest.mark.chaos
@pytest.mark.service
def test_a_short_soak_draws_every_part_and_all_holds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.soak", "--minutes", "0.1", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for part in ("up", "store", "api", "reconciler", "worker", "solving child"):
        assert f"\n{part} " in done.stdout, done.stdout
    assert "all holds" in done.stdout
    assert (tmp_path / "soak.png").stat().st_size > 10_000
    assert not list(tmp_path.glob("ihvp-soak-*")), "its data are removed"
