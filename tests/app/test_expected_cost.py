"""What a submit asks and works out to predict its job: as good as nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from app.expected_cost import FRESH_S, ExpectedCost
from ihvp.costs.observation import Known
from ihvp.costs.prediction import predict
from ihvp.costs.workload import Task, Workload
from ihvp.errors import StoreUnavailable
from ihvp.methods import Curvature, InversionMethod

WORKLOAD = Workload(
    model="sha256:m",
    curvature=Curvature.Hessian,
    architecture="linear",
    dtype="float32",
    num_points=10,
    batch_size=10,
    shapes=((1, 2), (1,)),
    num_params=3,
    columns=1,
    damping=0.1,
)
CG = Task.of(InversionMethod.Cg, {}, "float32")
DIRECT = Task.of(InversionMethod.Direct, {}, "float32")


class Costs:
    """A store that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False

    async def known(self, model: str, curvature: Curvature) -> Known:
        if self.away:
            raise StoreUnavailable("away")
        self.asked += 1
        return Known()


def test_a_model_is_asked_for_once_a_minute() -> None:
    store, now = Costs(), [0.0]
    expected = ExpectedCost(store, lambda: now[0])  # type: ignore[arg-type]

    async def submits() -> None:
        for task in (CG, DIRECT, CG):
            for columns in (1, 5):
                workload = replace(WORKLOAD, columns=columns)
                assert await expected.seconds(workload, task) == predict(workload, task, Known()).seconds
        assert store.asked == 1
        await expected.seconds(replace(WORKLOAD, model="sha256:n"), CG)
        assert store.asked == 2
        now[0] = FRESH_S + 1
        await expected.seconds(WORKLOAD, CG)
        assert store.asked == 3

    asyncio.run(submits())


def test_a_job_is_accepted_without_a_prediction_where_none_can_be_had() -> None:
    store = Costs()
    store.away = True
    assert asyncio.run(ExpectedCost(store).seconds(WORKLOAD, CG)) is None  # type: ignore[arg-type]
