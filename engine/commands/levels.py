"""Lists of SNRs on the command line."""

import click


def parse_levels(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[float, ...]:
    """Return the numbers of a text such as "15,25,35"; raise `click.BadParameter` if it is none."""
    try:
        return tuple(float(level) for level in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}; expected numbers in dB such as 15,25,35") from error
