"""The folder of an embedded index: who owns it, and which of its generations counts.

```
LOCATION/quadrieve.json              says that this is a store, and of which format
LOCATION/ROLE.NAME/lock              held by the process that owns the index
LOCATION/ROLE.NAME/owner.json        which process that is
LOCATION/ROLE.NAME/current           the generation that counts
LOCATION/ROLE.NAME/gen-000001/       a Chroma database, its catalog and its vectors
```
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import StoreError

_CURRENT = "current"
_OWNER = "owner.json"


class IndexFolder:
    """An index's folder, owned by this process from `acquire` to `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / "lock", timeout=0, thread_local=False)

    def acquire(self) -> None:
        """Become the owner.

        The operating system lets go of the lock of a process that died, so such a lock is simply taken over.

        Raises:
            StoreError: If another process is the owner.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise StoreError(
                f"{str(self.path)!r} is in use by process {self._owner()}; close it there, or let both use a server: "
                f"`chroma run --path {self.generation()}` and 'http://localhost:8000' as location."
            ) from None
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        write_whole(self.path / _OWNER, json.dumps(owner))
        self.sweep()

    def release(self) -> None:
        """Stop being the owner."""
        (self.path / _OWNER).unlink(missing_ok=True)
        self._lock.release()

    def generation(self) -> Path:
        """The folder of the generation that counts."""
        return self._folder(self._current())

    def next_generation(self, target: str) -> Path:
        """The folder of the generation that will count, left as it is if it was begun for the same target.

        Args:
            target: Names what it is built for.
        """
        folder = self._folder(self._current() + 1)
        begun = folder / "target"
        if folder.exists() and not (begun.exists() and begun.read_text(encoding="utf-8") == target):
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        write_whole(begun, target)
        return folder

    def switch(self) -> None:
        """Make the next generation count, from one moment to the next."""
        write_whole(self.path / _CURRENT, str(self._current() + 1))

    def sweep(self) -> None:
        """Remove generations that no longer count, one that a process left behind when it died among them."""
        for folder in self.path.glob("gen-*"):
            if int(folder.name.removeprefix("gen-")) < self._current():
                shutil.rmtree(folder)

    def _current(self) -> int:
        file = self.path / _CURRENT
        try:
            return int(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 1
        except ValueError as error:
            raise StoreError(f"{str(file)!r} should hold the number of a generation; restore it.") from error

    def _folder(self, number: int) -> Path:
        return self.path / f"gen-{number:06d}"

    def _owner(self) -> str:
        try:
            owner = json.loads((self.path / _OWNER).read_text(encoding="utf-8"))
            return f"{owner['pid']} on {owner['host']}"
        except (OSError, ValueError, KeyError):
            return "(just starting)"


def write_whole(path: Path, text: str) -> None:
    """Replace a file's content from one moment to the next; a kill may leave a file that `is_staged`."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with open(staged, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def is_staged(path: Path, name: str) -> bool:
    """Whether a file is what `write_whole` left of the file `name` when it was killed."""
    return path.name.startswith(f".{name}.")
