"""quadrieve in LlamaIndex: the four roles where its embeddings, retrievers, memory, tools and prompts go."""

from .embedding import QuadrieveEmbedding
from .retriever import QuadrieveRetriever

__all__ = ["QuadrieveEmbedding", "QuadrieveRetriever"]
