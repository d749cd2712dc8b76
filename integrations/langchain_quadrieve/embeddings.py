"""A role's view of an embedder as LangChain's `Embeddings`."""

from __future__ import annotations

from collections.abc import Iterable

from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor

from quadrieve import EmbedderLike, InputError, Role


class QuadrieveEmbeddings(Embeddings):
    """One role's two sides for any LangChain vector store: documents get the key prefix, queries the query prefix.

    Thread-safe. Vectors of two roles do not mean the same, so give each role a collection of its own.

    Example:
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> from quadrieve import Embedder
        >>> embeddings = QuadrieveEmbeddings(Embedder.load(), task="qa")
        >>> store = InMemoryVectorStore.from_texts(["Bees make honey.", "The bus leaves at nine."], embeddings)
        >>> store.similarity_search("Where does honey come from?", k=1)[0].page_content
        'Bees make honey.'
    """

    def __init__(self, embedder: EmbedderLike, task: Role | str = "qa") -> None:
        """Take the view of a role or a task.

        Args:
            embedder: `Embedder.load(…)`, or anything with `view(task)`.
            task: A role or a task's name: it decides which prefixes are used.

        Raises:
            InputError: If the embedder is none, or no role or task has that name.
        """
        if not isinstance(embedder, EmbedderLike):
            raise InputError(
                f"embedder is {type(embedder).__name__}; expected Embedder.load(…) or anything with view(task)."
            )
        self.view = embedder.view(task)

    def __repr__(self) -> str:
        return f"QuadrieveEmbeddings({self.view!r})"

    def embed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Encode what is searched: `[n, dim]`, unit rows; no texts give no rows.

        Raises:
            InputError: If a text is no string.
        """
        given = texts if isinstance(texts, str) else list(texts)
        return [[float(x) for x in row] for row in self.view.embed_keys(given)] if given else []

    def embed_query(self, text: str) -> list[float]:
        """Encode what is asked: `[dim]`, of unit length."""
        return [float(x) for x in self.view.embed_queries([text])[0]]

    async def aembed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """`embed_documents` in a thread, so that the event loop stays free."""
        return await run_in_executor(None, self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` in a thread, so that the event loop stays free."""
        return await run_in_executor(None, self.embed_query, text)
