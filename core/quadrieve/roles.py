"""The four roles of retrieval for a language model, and the tasks that the embedder is prompted for.

A role says what the retrieved thing is for; a task is one way of asking for it, with one prefix for
each side (arXiv 2310.07554, section 3.3 and table 9). Six tasks are the paper's; `register_task` adds others.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .errors import InputError


class Role(StrEnum):
    """What a language model needs to have fetched."""

    KNOWLEDGE = "knowledge"
    MEMORY = "memory"
    EXAMPLE = "example"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of query and candidate, and the prefix that tells the embedder which side it reads.

    Args:
        name: Short name, the key of the prefixes in a checkpoint (`{name}_query`, `{name}_key`).
        role: The role that the task serves.
        query_prefix: Put before a query as it is, so a trailing space belongs to it.
        key_prefix: Put before a candidate as it is.
        in_batch_negatives: Whether candidates of other queries mean anything as negatives. They do not
            where every query has a history of its own (`chat`, `lrlm`).
    """

    name: str
    role: Role
    query_prefix: str
    key_prefix: str
    in_batch_negatives: bool = True


_TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "qa",
            Role.KNOWLEDGE,
            "Represent this query for retrieving relevant documents: ",
            "Represent this document for retrieval: ",
        ),
        Task(
            "convsearch",
            Role.KNOWLEDGE,
            "Encode this query and context for searching relevant passages: ",
            "Encode this passage for retrieval: ",
        ),
        Task(
            "chat",
            Role.MEMORY,
            "Embed this dialogue to find useful historical dialogues: ",
            "Embed this historical dialogue for retrieval: ",
            in_batch_negatives=False,
        ),
        Task(
            "lrlm",
            Role.MEMORY,
            "Embed this text chunk for finding useful historical chunks: ",
            "Embed this historical text chunk for retrieval: ",
            in_batch_negatives=False,
        ),
        Task(
            "icl",
            Role.EXAMPLE,
            "Convert this example into vector to look for useful examples: ",
            "Convert this example into vector for retrieval: ",
        ),
        Task(
            "tool",
            Role.TOOL,
            "Transform this user request for fetching helpful tool descriptions: ",
            "Transform this tool description for retrieval: ",
        ),
    )
}

#: The task that a role is embedded with when only the role is named.
DEFAULT_TASKS: dict[Role, str] = {
    Role.KNOWLEDGE: "qa",
    Role.MEMORY: "chat",
    Role.EXAMPLE: "icl",
    Role.TOOL: "tool",
}


def tasks() -> tuple[Task, ...]:
    """All registered tasks, in the order in which they were registered."""
    return tuple(_TASKS.values())


def register_task(task: Task) -> Task:
    """Add a task to the registry, for this process.

    Registering the same task again changes nothing.

    Raises:
        InputError: If another task has that name, or the name is a role's or no identifier.

    Example:
        >>> from quadrieve import Role, Task, register_task
        >>> register_task(Task("code", Role.KNOWLEDGE, "Find code for: ", "Code: ")).role.value
        'knowledge'
    """
    if not task.name.isidentifier():
        raise InputError(f"A task's name must be an identifier such as 'code_search', got {task.name!r}.")
    if task.name in set(Role) - {Role.TOOL}:
        raise InputError(f"{task.name!r} is the name of a role, so a task cannot have it; choose another name.")
    known = _TASKS.get(task.name)
    if known is not None and known != task:
        raise InputError(f"A task {task.name!r} with other prefixes is registered already; choose another name.")
    _TASKS[task.name] = task
    return task


def find_task(name: Role | str) -> Task:
    """The task of that name, or a role's default task.

    Args:
        name: A `Role`, a role's name or a task's name.

    Raises:
        InputError: If nothing has that name.

    Example:
        >>> find_task("memory").name, find_task("lrlm").role.value
        ('chat', 'memory')
    """
    if name in _TASKS:
        return _TASKS[name]
    if isinstance(name, str) and name in set(Role):
        return _TASKS[DEFAULT_TASKS[Role(name)]]
    raise InputError(
        f"Unknown role or task {name!r}; the roles are {', '.join(Role)} and the tasks are "
        f"{', '.join(_TASKS)} (add one with register_task)."
    )
