"""Knowledge: passages that answer what the language model was asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from .embedder import EmbedderLike, OnLong, check_text, check_texts
from .index import Hit, Record
from .index.filters import read_filter
from .index.location import Location
from .index.ranking import Mode
from .index.records import check_metadata, content_id
from .role_store import FilteredStore, per_text
from .roles import Role


class KnowledgeBase(FilteredStore):
    """Passages, found by what they answer.

    Example:
        >>> from quadrieve import Embedder, KnowledgeBase
        >>> kb = KnowledgeBase.open(None, embedder=Embedder.load())
        >>> ids = kb.add(["Bees make honey from nectar.", "The bus leaves at nine."], metadatas=[{"topic": "bees"}, {}])
        >>> kb.search("Where does honey come from?", k=1)[0].text
        'Bees make honey from nectar.'
    """

    role: ClassVar[Role] = Role.KNOWLEDGE

    @classmethod
    def open(
        cls,
        location: Location,
        *,
        embedder: EmbedderLike,
        name: str = "default",
        task: str | None = None,
        on_long: OnLong | None = None,
    ) -> Self:
        """Open a knowledge base, or make it where there is none.

        Args:
            location: A folder, `http://host:port`, a chromadb client, or None for memory.
            embedder: The embedder that it was made with.
            name: Tells several knowledge bases of one location apart.
            task: `qa` (the default), `convsearch`, or a registered task of the role knowledge.
            on_long: What to do with texts longer than the model reads: see `RoleView.embed_keys`.

        Raises:
            StoreError: If the location holds something else (`FingerprintError`: another embedder's index).
        """
        return cls(cls._open_index(location, embedder, name, task, on_long))

    def add(
        self,
        texts: Iterable[str],
        ids: Sequence[str] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        progress: bool = False,
    ) -> list[str]:
        """Store passages; adding the same again changes nothing, an id that is there gets the new passage.

        Args:
            texts: At least one passage.
            ids: One each; None makes them of text and metadata.
            metadatas: One dict each, nested JSON allowed; scalars in it can be filtered on.
            progress: Show a progress bar on stderr.

        Returns:
            The ids, in the order of the texts.

        Raises:
            InputError: If a text is no string, the numbers differ, or metadata is not JSON.
        """
        checked = check_texts(texts)
        given = per_text(ids, len(checked), "ids")
        metadata = [
            check_metadata(entry, f"The metadata of text {i}")
            for i, entry in enumerate(per_text(metadatas, len(checked), "metadatas"))
        ]
        records = [
            Record(check_text(id, "An id") if id is not None else content_id(text, entry), text, entry)
            for id, text, entry in zip(given, checked, metadata, strict=True)
        ]
        return self.index.write(records, progress=progress)

    def search(
        self,
        query: str,
        k: int = 5,
        where: Mapping[str, Any] | None = None,
        mode: Mode = "hybrid",
        min_score: float | None = None,
        diversity: float | None = None,
    ) -> list[Hit]:
        """The k passages that help most, best first.

        Args:
            query: What is asked.
            k: How many at most.
            where: Filter on metadata: `{"lang": "en", "year": {"$gte": 2020}}`, `$and`, `$or`, nested as `"a.b"`.
            mode: `hybrid` ranks by meaning and by words, `dense` by meaning alone, `lexical` by words alone.
            min_score: Only passages with at least this cosine similarity.
            diversity: From 0 to 1: how much a hit's likeness to those before it counts against it (MMR).
        """
        return self.index.search(
            query, k, filter=read_filter(where), mode=mode, min_score=min_score, diversity=diversity
        )
