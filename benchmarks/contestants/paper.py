"""What the paper reports, to stand beside what is measured here."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

ORDER = ("least-squares", "admm-l1", "art", "admm-tv", "admm-hybrid", "pp-mpi", "deq")
"""From worst to best at 15 and 25 dB (Table I; least squares: the authors' code)."""

MAY_TIE = ("admm-tv", "admm-hybrid")
"""Neighbours in the order of which the second need only be as good as the first."""

TIE = 0.05
"""Difference in dB that the paper's tables, of one decimal, do not show."""

ORDER_SNRS = (15.0, 25.0)


@dataclass(frozen=True)
class PaperFigure:
    """One cell of Table I or II: mean and standard deviation over the authors' test images.

    Attributes
    ----------
    psnr, psnr_std : float
        dB.
    ssim, ssim_std : float
        %.
    """

    psnr: float
    psnr_std: float
    ssim: float
    ssim_std: float


def _rows(gradient: float, text: str) -> dict[tuple[str, float, float], PaperFigure]:
    found = {}
    for line in text.strip().splitlines():
        method, *figures = line.split()
        for position, snr in enumerate((15.0, 25.0, 35.0)):
            cell = [float(figure) for figure in figures[4 * position : 4 * position + 4]]
            found[method, snr, gradient] = PaperFigure(*cell)
    return found


TABLES: Mapping[tuple[str, float, float], PaperFigure] = MappingProxyType(
    _rows(
        0.5,
        """
        admm-l1      18.9 3.5 16.4  9.5   23.2 2.2 32.6 14.0   28.9 1.3 58.6 13.8
        admm-tv      27.3 6.1 56.2 20.0   31.2 4.4 71.9 11.3   35.5 3.0 84.5  6.5
        admm-hybrid  28.7 5.1 63.9  9.5   31.7 3.6 74.8  7.5   35.9 2.7 85.6  5.6
        art          26.7 4.3 49.6  7.8   28.5 5.7 64.3  8.8   31.9 4.3 76.1  4.4
        dip          16.7 2.6 13.5  9.1   22.6 1.7 30.9 16.6   28.2 2.9 54.6 21.0
        pp-mpi       30.6 5.1 70.8 11.5   33.4 4.1 77.8  9.6   35.7 3.1 82.8  8.2
        deq          32.1 4.5 75.2  9.9   34.8 3.5 81.5  8.3   37.7 2.6 88.1  5.7
        """,
    )
    | _rows(
        0.6,
        """
        admm-l1      19.1 3.5 17.1  9.5   23.3 2.2 33.4 14.1   29.1 1.3 59.3 13.6
        admm-tv      27.5 6.1 57.4 19.5   31.3 4.4 72.8 10.8   35.7 3.0 84.9  6.3
        admm-hybrid  28.7 5.0 64.4  9.4   31.8 3.6 75.3  7.3   36.0 2.7 86.0  5.4
        art          26.7 4.3 49.8  8.0   28.5 5.8 64.6  8.8   32.0 4.3 76.5  4.4
        dip          16.9 2.6 13.9  9.0   22.5 1.8 31.0 16.7   28.0 3.1 54.1 21.8
        pp-mpi       30.8 5.0 71.3 11.4   33.5 4.1 78.4  9.2   35.8 3.1 83.4  7.8
        deq          31.9 4.5 75.0  9.8   34.5 3.4 81.3  8.1   37.6 2.6 88.0  5.7
        """,
    )
)
"""Tables I (test gradient 0.5 T/m) and II (0.6 T/m) by method, SNR in dB and test gradient in T/m."""

COUNTERPARTS = MappingProxyType(
    {
        "deq, trained at this SNR": "deq",
        "deq, authors' weights": "deq",
        "pp-mpi, authors' denoiser": "pp-mpi",
    }
)
"""The paper's method of a row that is a variant of it."""


def paper_figure(name: str, snr: float, gradient: float) -> PaperFigure | None:
    """Return the paper's figures for a row, or None where it has none."""
    return TABLES.get((COUNTERPARTS.get(name, name), snr, gradient))


@dataclass(frozen=True)
class PaperTime:
    """A column of Table III: iterations, and milliseconds of a 13 x 26 image on a Tesla V100."""

    iterations: int
    milliseconds: float


TABLE_III: Mapping[str, PaperTime] = MappingProxyType(
    {
        "admm-l1": PaperTime(200, 55),
        "admm-tv": PaperTime(100, 221),
        "admm-hybrid": PaperTime(100, 236),
        "art": PaperTime(10, 6966),
        "dip": PaperTime(20000, 235162),
        "pp-mpi": PaperTime(150, 379),
        "deq": PaperTime(25, 64),
    }
)
