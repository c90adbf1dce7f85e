"""The folder of the user's cache in which this project keeps what can be made again."""

import os
import sys
from pathlib import Path

APPLICATION = "deq-mpi"


def cache_folder(purpose: str) -> Path:
    """Return the folder for one purpose, created if missing.

    $XDG_CACHE_HOME (%LOCALAPPDATA% on Windows) or else ~/.cache, then `deq-mpi` and the purpose.
    """
    given = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    root = Path(given) if given else Path.home() / ".cache"
    folder = root / APPLICATION / purpose
    folder.mkdir(parents=True, exist_ok=True)
    return folder
