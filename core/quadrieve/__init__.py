"""One text embedder for the four things a language model needs to have fetched.

Importing this package loads neither torch nor chromadb; they come with the first thing that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .embedder import Embedder, EmbedderLike, RoleView, ViewLike
    from .errors import FingerprintError, InputError, ModelError, QuadrieveError, ServerError, StoreError
    from .examples import Example, ExampleBank
    from .index import Fusion, Hit, Index, Record
    from .knowledge import KnowledgeBase
    from .memory import Memory
    from .roles import Role, Task, find_task, register_task, tasks
    from .tools import Tool, Toolbox, ToolHit

_HOME = {
    "embedder": ("Embedder", "EmbedderLike", "RoleView", "ViewLike"),
    "errors": ("FingerprintError", "InputError", "ModelError", "QuadrieveError", "ServerError", "StoreError"),
    "examples": ("Example", "ExampleBank"),
    "index": ("Fusion", "Hit", "Index", "Record"),
    "knowledge": ("KnowledgeBase",),
    "memory": ("Memory",),
    "roles": ("Role", "Task", "find_task", "register_task", "tasks"),
    "tools": ("Tool", "ToolHit", "Toolbox"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "Embedder",
    "EmbedderLike",
    "Example",
    "ExampleBank",
    "FingerprintError",
    "Fusion",
    "Hit",
    "Index",
    "InputError",
    "KnowledgeBase",
    "Memory",
    "ModelError",
    "QuadrieveError",
    "Record",
    "Role",
    "RoleView",
    "ServerError",
    "StoreError",
    "Task",
    "Tool",
    "ToolHit",
    "Toolbox",
    "ViewLike",
    "find_task",
    "register_task",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'quadrieve' has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
