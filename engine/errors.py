"""The exceptions of the library, and the exit code each means on the command line.

Every message says what was got, what was expected and what to do, in one line.
"""


class DeqMpiError(Exception):
    """Base of all errors raised on purpose by this project (exit code 1)."""

    exit_code = 1


class InputError(DeqMpiError):
    """A file, option or value that the user can correct (exit code 2)."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration with an unknown key, a wrong type or an impossible value."""


class MdfError(InputError):
    """A file that is not MDF, breaks the MDF rules, or uses a part we do not support."""


class SelectionError(InputError):
    """A row selection that leaves nothing, or needs information the file lacks."""


class OperatorsError(InputError):
    """An operators file that cannot be used: schema, hash, shape or content."""


class BundleError(InputError):
    """A model bundle that cannot be used: schema, hash, missing file or shape."""


class PairingError(InputError):
    """A measurement, operators and model that do not belong together."""


class MessageError(InputError):
    """A message that breaks the rules of the wire format; `reason` is one of a few words to count by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class LiveError(DeqMpiError):
    """The live reconstruction cannot go on as asked: stopped, not started, or an endpoint is taken."""


class RecordingError(DeqMpiError):
    """A recording cannot be written or recovered; viewing is not affected."""


class ProviderError(InputError):
    """An execution provider that was asked for and is not available here."""


class DeviceError(DeqMpiError):
    """An accelerator reported an error in the middle of the work; no image is returned."""


class NonFiniteError(DeqMpiError):
    """A computation produced NaN or infinity; no image is returned."""
