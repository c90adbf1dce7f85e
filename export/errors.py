"""The errors of the export, with the exit codes of `engine.errors`."""

from engine.errors import DeqMpiError, InputError


class CheckpointError(InputError):
    """A checkpoint of another architecture, or a file that is no checkpoint."""


class ExportError(DeqMpiError):
    """A network whose ONNX graph would not be what the engine runs."""


class ParityError(DeqMpiError):
    """The exported graphs compute something else than the networks they came from."""
