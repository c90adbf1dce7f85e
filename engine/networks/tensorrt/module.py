"""The Python modules of TensorRT, chosen by name and never exchanged for one another.

A plan of one flavour does not run in the other, and a runtime that replaced another without a word would
hide which of them was measured.
"""

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from engine.errors import ProviderError

MODULES: Mapping[str, str] = MappingProxyType(
    {
        "tensorrt": "pip install 'deq-mpi[tensorrt]'",
        "tensorrt_rtx": "pip install 'deq-mpi[plans]'",
    }
)
"""Modules with one interface that can be imported, and how to install each."""

MAX_REASON_LENGTH = 300
"""Number of characters of the library's message that ours repeats."""


@dataclass(frozen=True)
class TensorRt:
    """An imported TensorRT module.

    Attributes
    ----------
    name : str
        Name of the module, a key of `MODULES`.
    module : module
        Module that was imported.
    """

    name: str
    module: Any

    @property
    def version(self) -> str:
        """Version of the library, such as "11.4.0.106"."""
        return str(self.module.__version__)


def import_tensorrt(name: str) -> TensorRt:
    """Import one TensorRT module.

    Parameters
    ----------
    name : str
        "tensorrt" or "tensorrt_rtx".

    Raises
    ------
    ProviderError
        If it is not installed, or its libraries cannot be loaded.
    """
    try:
        return TensorRt(name, importlib.import_module(name))
    except ModuleNotFoundError as error:
        raise ProviderError(f"the module {name} is not installed; {MODULES[name]}") from error
    except (ImportError, OSError, RuntimeError) as error:  # a library is missing or of another version
        raise ProviderError(
            f"the module {name} is installed but does not load: {one_line(str(error))}; {MODULES[name]} again"
        ) from error


@functools.cache
def message_collector(tensorrt: TensorRt) -> Any:
    """Return the logger of a module: it keeps error messages in its list `errors` and prints nothing.

    TensorRT reports the reason of a failure to its logger only: its functions return None. One logger per
    process, for TensorRT ignores a second one while an object made with the first is alive. Clear `errors`
    before what may fail.
    """
    base: Any = tensorrt.module.ILogger

    class Collector(base):  # type: ignore[misc]  # the base is known at run time only
        def __init__(self) -> None:
            base.__init__(self)  # the bindings refuse super()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (base.Severity.ERROR, base.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Collector()


def reason(errors: list[str]) -> str:
    """Return the first error that TensorRT reported, in one line; later ones follow from it."""
    return one_line(errors[0]) if errors else "TensorRT gave no reason"


def one_line(text: str) -> str:
    """Return a text of another library as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_REASON_LENGTH else f"{line[:MAX_REASON_LENGTH]} ..."
