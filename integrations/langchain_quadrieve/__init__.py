"""The four roles of retrieval in LangChain's and LangGraph's own shapes."""

from .embeddings import QuadrieveEmbeddings
from .examples import QuadrieveExampleSelector
from .memory import MemoryMiddleware
from .retriever import QuadrieveRetriever
from .store import QuadrieveStore
from .tool_selection import ToolSelectionMiddleware

__all__ = [
    "MemoryMiddleware",
    "QuadrieveEmbeddings",
    "QuadrieveExampleSelector",
    "QuadrieveRetriever",
    "QuadrieveStore",
    "ToolSelectionMiddleware",
]
