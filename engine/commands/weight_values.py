"""Reading hand-set weights from the command line."""

import click


def parse_weights(
    _context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, float]:
    """Read NAME=VALUE pairs such as tv=0.02 (a click callback)."""
    weights: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value, equals = 0.0, ""
        if not (name and equals):
            raise click.BadParameter(f"{text!r}; expected NAME=VALUE such as tv=0.02")
        if name in weights:
            raise click.BadParameter(f"{name} is given twice; expected each weight once")
        weights[name] = value
    return weights
