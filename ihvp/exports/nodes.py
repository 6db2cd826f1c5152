"""The steps of an exported program: only operators of the list, each made of what came before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ihvp.errors import InvalidExport
from ihvp.exports.arguments import Value, argument_of, names_in
from ihvp.exports.operators import FRESH, IGNORED, IN_PLACE, PURE, RULES, SYMBOLIC

__all__ = ["Node", "read_nodes"]

MOST_NODES: Final = 100_000
KEYWORD: Final = 2

OWN: Final = FRESH | IN_PLACE | SYMBOLIC
"""Operators whose result shares memory with nothing that came in: of those in place, that is checked."""


@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
        operator: As torch.export writes it: ``torch.ops.aten.linear.default``.
        positional: Arguments.
        named: Arguments by keyword.
        outputs: Names of what it makes.
        unpack: Whether it returns several, of which each has a name.
    """

    operator: str
    positional: tuple[Any, ...]
    named: dict[str, Any]
    outputs: tuple[str, ...]
    unpack: bool

    @property
    def uses(self) -> list[str]:
        """The values that it is computed from."""
        return [name for argument in (*self.positional, *self.named.values()) for name in names_in(argument)]

    def argument(self, position: int, name: str) -> Any:
        """An argument by its place in the operator's schema, or by keyword; None where it is left to its default."""
        return self.positional[position] if position < len(self.positional) else self.named.get(name)


def read_nodes(documents: list[dict[str, Any]], *, inputs: Iterable[str], output: str) -> list[Node]:
    """Reads and checks the steps.

    Args:
        documents: Their JSON.
        inputs: Values that are there before the first one: they are never written into.
        output: The value that is there after the last one.

    Raises:
        InvalidExport: An operator is not on the list, is used so that it would be random or change what it was given,
            or refers to what is not there.
    """
    if len(documents) > MOST_NODES:
        raise InvalidExport("The program has too many steps.", given=len(documents), allowed=MOST_NODES)
    # Whether each value may share its memory with what came in, which is not to be written into.
    foreign = dict.fromkeys(inputs, True)
    nodes: list[Node] = []
    for document in documents:
        operator = document["target"]
        if operator in IGNORED:
            continue
        if operator not in PURE and operator not in IN_PLACE and operator not in SYMBOLIC:
            raise InvalidExport(
                "The program uses an operator that is not on the list.",
                given=str(operator)[:200],
                hint="docs/exported.md says what is; program.run_decompositions() before saving writes many others in "
                "terms of these.",
            )
        node = _node(operator, document)
        used = node.uses
        unknown = [name for name in used if name not in foreign]
        if unknown:
            raise InvalidExport("The program uses a value before it is made.", given=unknown[0][:200])
        _check(node, foreign)
        for name in node.outputs:
            if name in foreign:
                raise InvalidExport("The program makes a value twice.", given=name[:200])
            foreign[name] = operator not in OWN and any(foreign[each] for each in used)
        nodes.append(node)
    if output not in foreign:
        raise InvalidExport("The program returns what it has not made.", given=output[:200])
    return nodes


def _node(operator: str, document: dict[str, Any]) -> Node:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for entry in document["inputs"]:
        argument = argument_of(entry["arg"], f"{operator} {entry['name']}")
        # torch names positional ones after the schema as well; out= is none of them.
        if entry.get("kind") == KEYWORD:
            named[str(entry["name"])] = argument
        else:
            positional.append(argument)
    if "out" in named:
        raise InvalidExport("An operator writes into an argument.", given=operator)
    outputs = document["outputs"]
    if len(outputs) == 1 and "as_tensors" in outputs[0]:
        several = tuple(names_in(argument_of(outputs[0], f"what {operator} makes")))
        return Node(operator, tuple(positional), named, several, unpack=True)
    names = tuple(_made(operator, each) for each in outputs)
    return Node(operator, tuple(positional), named, names, unpack=len(names) > 1)


def _made(operator: str, document: dict[str, Any]) -> str:
    made = argument_of(document, f"what {operator} makes")
    names = names_in(made)
    if isinstance(made, list) or len(names) != 1:
        raise InvalidExport("An operator's results are not read here.", given=f"{operator}: {document}"[:200])
    return names[0]


def _check(node: Node, foreign: dict[str, bool]) -> None:
    rule = RULES.get(node.operator)
    fault = None if rule is None else rule(node.argument)
    if fault is not None:
        raise InvalidExport(
            f"The operator {node.operator} {fault}.",
            given=node.outputs[0] if node.outputs else None,
            hint="Export the module in evaluation mode: model.eval().",
        )
    if node.operator not in IN_PLACE:
        return
    # By position: names come from the archive, and an operator goes by its own.
    written = node.positional[0] if node.positional else None
    if not isinstance(written, Value) or foreign[written.name]:
        raise InvalidExport(
            "The program writes into a parameter, a buffer, an input, or a view of one.",
            given=f"{node.operator} on {written.name if isinstance(written, Value) else written}"[:200],
            hint="Export model.eval(), without in-place operators on what it was given.",
        )
