"""quadrieve in LlamaIndex: the four roles where its embeddings, retrievers, memory, tools and prompts go."""

from .embedding import QuadrieveEmbedding
from .example_selector import QuadrieveExampleSelector
from .memory_block import QuadrieveMemoryBlock
from .retriever import QuadrieveRetriever
from .tool_retriever import QuadrieveToolRetriever
from .vector_store import QuadrieveVectorStore

__all__ = [
    "QuadrieveEmbedding",
    "QuadrieveExampleSelector",
    "QuadrieveMemoryBlock",
    "QuadrieveRetriever",
    "QuadrieveToolRetriever",
    "QuadrieveVectorStore",
]
