"""Folders that are made once from what is installed, and kept in the user's cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from .errors import ModelError

#: Environment variable that names the folder for what is made once and kept.
CACHE_VARIABLE = "QUADRIEVE_CACHE"


def made_once(name: str, make: Callable[[Path], None], *, needs: str) -> Path:
    """A folder of the cache, made all or nothing by whoever asks first.

    The cache is `$QUADRIEVE_CACHE`, or else `quadrieve` in the user's cache folder. Several processes may ask at once.

    Args:
        name: Of the folder; it tells apart what differs, by a hash of what it is made from.
        make: Called with an empty folder to fill.
        needs: Room that it takes, for the error: `"540 MB"`.

    Raises:
        ModelError: If the folder cannot be written.
    """
    cache = Path(
        os.environ.get(CACHE_VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quadrieve"
    )
    folder = cache / name
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{name}.lock"):
            if not folder.is_dir():
                staged = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
                try:
                    make(staged)
                    staged.replace(folder)
                finally:
                    shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"{name} cannot be unpacked into {str(cache)!r} ({error.strerror or error}); "
            f"name a folder with room for {needs} in ${CACHE_VARIABLE}."
        ) from error
    return folder
