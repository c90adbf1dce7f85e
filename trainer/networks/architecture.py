"""The sizes of networks, read from the shapes of their weights."""

from collections.abc import Mapping

from torch import Tensor


def architecture(weights: Mapping[str, Tensor]) -> dict[str, int | bool]:
    """Read the sizes of the networks in a weights file.

    Parameters
    ----------
    weights : mapping
        Tensors by name, "rdn.…" and "lc.…".

    Returns
    -------
    dict
        Values by the keys of the configuration's `[model]` table, such as "rdn.features"; only those that
        the weights tell.
    """
    rules = {
        "takes_noise": _takes_noise(weights),
        "rdn.features": _size(weights, "rdn.entry.weight", 0),
        "rdn.growth": _size(weights, "rdn.blocks.0.layers.0.weight", 0),
        "rdn.blocks": _count(weights, "rdn.blocks."),
        "rdn.layers": _count(weights, "rdn.blocks.0.layers."),
        "lc.features": _size(weights, "lc.hidden.0.weight", 0),
        # The list holds the first layer, too.
        "lc.hidden_layers": _count(weights, "lc.hidden.", first=1),
        "lc.kernel": _size(weights, "lc.exit.weight", 3),
    }
    return {key: value for key, value in rules.items() if value is not None}


def differences(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Say in which sizes weights differ from a model's own.

    Returns
    -------
    str
        Such as " (rdn.features 12, expected 16)", or an empty text where no size tells them apart.
    """
    got, expected = architecture(weights), architecture(own)
    parts = [
        f"{key} {got[key]}, expected {value}".lower()  # as TOML writes it
        for key, value in expected.items()
        if key in got and got[key] != value
    ]
    networks = {key.partition(".")[0] for key in own} - {key.partition(".")[0] for key in weights}
    parts += [f"no network {name}" for name in sorted(networks)]
    return f" ({'; '.join(parts)})" if parts else ""


def _takes_noise(weights: Mapping[str, Tensor]) -> bool | None:
    """Whether the networks see the noise level, from the channels of the first layers."""
    for name, without in (("rdn.entry.weight", 1), ("lc.hidden.0.weight", 4)):
        channels = _size(weights, name, 1)
        if channels is not None:
            return channels > without
    return None


def _size(weights: Mapping[str, Tensor], name: str, axis: int) -> int | None:
    """Return the length of an axis of a tensor; None if there is no such tensor or axis."""
    tensor = weights.get(name)
    return tensor.shape[axis] if tensor is not None and tensor.ndim > axis else None


def _count(weights: Mapping[str, Tensor], prefix: str, first: int = 0) -> int | None:
    """Count the items of a list of modules; None if it is empty."""
    items = {key.removeprefix(prefix).partition(".")[0] for key in weights if key.startswith(prefix)}
    return len(items) - first if items else None
