"""Each user's own documents: kept, indexed and searched, apart from every other's."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from langchain_quadrieve import QuadrieveRetriever
from quadrieve import EmbedderLike, KnowledgeBase

from .files import READERS
from .library import Sync, sync


class Documents:
    """Folders of files, one a user, each with a knowledge base that is in step with it.

    Args:
        folder: Where the files are copied to.
        location: Where the knowledge bases lie.
        embedder: What finds.
    """

    def __init__(self, folder: Path, location: Path, embedder: EmbedderLike) -> None:
        self._folder = folder
        self._location = location
        self._embedder = embedder
        self._bases: dict[str, KnowledgeBase] = {}
        self._opening = threading.Lock()

    def add(self, user: str, files: Sequence[Path]) -> Sync:
        """Copy files into a user's folder, where they replace those of their names, and index them.

        Of several files of one name the second is called `name (2)`, and so on. A file that cannot be read is not
        kept; what is returned says why.
        """
        folder = self._folder_of(user)
        folder.mkdir(parents=True, exist_ok=True)
        known = [file for file in files if file.suffix.lower() in READERS]
        times: Counter[str] = Counter()
        for file in known:
            times[file.name] += 1
            again = f" ({times[file.name]})" if times[file.name] > 1 else ""
            shutil.copyfile(file, folder / f"{file.stem}{again}{file.suffix}")
        done = sync(self._base(user), folder, root="documents")
        for name in done.failed:
            (folder / name).unlink()
        done.failed |= {file.name: f"is none of {' '.join(READERS)}" for file in files if file not in known}
        return done

    def remove(self, user: str, names: Sequence[str]) -> None:
        """Delete documents, and erase their bytes."""
        for name in set(names) & set(self.names(user)):
            (self._folder_of(user) / name).unlink()
        sync(self._base(user), self._folder_of(user), root="documents")
        self._base(user).rebuild()

    def names(self, user: str) -> list[str]:
        """The names of a user's documents."""
        folder = self._folder_of(user)
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def retriever(self, user: str) -> QuadrieveRetriever | None:
        """What finds the two passages that help most; None where the user has no documents."""
        if not self.names(user):
            return None
        return QuadrieveRetriever(knowledge_base=self._base(user), k=2, score_key="score", why_key="why")

    def close(self) -> None:
        """Let go of the knowledge bases."""
        for base in self._bases.values():
            base.close()

    def _base(self, user: str) -> KnowledgeBase:
        with self._opening:
            if user not in self._bases:
                self._bases[user] = KnowledgeBase.open(self._location, embedder=self._embedder, name=_label(user))
            return self._bases[user]

    def _folder_of(self, user: str) -> Path:
        return self._folder / _label(user)


def _label(user: str) -> str:
    """A user's name as a folder's, whatever stands in it."""
    return hashlib.sha256(user.encode()).hexdigest()[:32]
