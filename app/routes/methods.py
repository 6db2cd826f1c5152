"""The inversion methods, for a caller who has to choose one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from app.answers import documented, json_answer
from app.examples import METHODS_LIST
from app.problems import problems
from ihvp.errors import IhvpError
from ihvp.methods import METHODS
from ihvp.wire import MethodList, MethodView

__all__ = ["router"]

router = APIRouter(prefix="/v1/methods", tags=["methods"])


@router.get(
    "",
    operation_id="listMethods",
    summary="List the inversion methods",
    response_model=MethodList,
    responses={**documented(200, "All methods.", example=METHODS_LIST), **problems(IhvpError)},
)
async def list_() -> Any:
    """What each guarantees and costs, and the JSON Schema of its options."""
    return json_answer(
        MethodList(
            methods=[
                MethodView(
                    method=d.method.value,
                    title=d.title,
                    guarantee=d.guarantee,
                    cost=d.cost,
                    exact=d.exact,
                    options_schema=d.options.model_json_schema(),
                )
                for d in METHODS.values()
            ]
        )
    )
