"""LangGraph's store operations as they come in: checked, and their conditions on namespaces."""

from __future__ import annotations

from collections.abc import Iterable

from langgraph.store.base import (
    GetOp,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    SearchOp,
    validate_op_namespace,
)

from quadrieve import InputError
from quadrieve.index.records import Namespace, check_metadata


def read_ops(ops: Iterable[Op]) -> list[Op]:
    """The operations, checked, with namespaces as tuples and values as plain JSON.

    Raises:
        InvalidNamespaceError: If a label is empty, no string, or has a `.` or NUL in it.
        InputError: If a value is not JSON, or an option is none.
    """
    read: list[Op] = []
    for op in ops:
        if isinstance(op, GetOp):
            checked: Op = op._replace(namespace=tuple(op.namespace))
        elif isinstance(op, PutOp):
            value = None if op.value is None else check_metadata(op.value, f"The value of {op.key!r}")
            if op.ttl is not None and not op.ttl > 0:
                raise InputError(f"ttl is a positive number of minutes, got {op.ttl!r}.")
            if isinstance(op.index, str):
                raise InputError(f"index is {op.index!r}, expected a list of paths, False or None.")
            checked = op._replace(namespace=tuple(op.namespace), value=value)
        elif isinstance(op, SearchOp):
            checked = op._replace(namespace_prefix=tuple(op.namespace_prefix))
        elif isinstance(op, ListNamespacesOp):
            checked = op
        else:
            raise InputError(f"Expected a GetOp, PutOp, SearchOp or ListNamespacesOp, got {type(op).__name__}.")
        validate_op_namespace(checked)
        read.append(checked)
    return read


def fits(namespace: Namespace, condition: MatchCondition) -> bool:
    """Whether a namespace begins or ends as a condition says; `*` is any label.

    Example:
        >>> fits(("users", "ada", "notes"), MatchCondition("suffix", ("*", "notes")))
        True
    """
    path = tuple(condition.path)
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))
