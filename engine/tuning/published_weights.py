"""The hand-set weights of the paper (Sec. IV-A), at which the tuning starts and with which it is compared."""

from collections.abc import Mapping
from types import MappingProxyType

PUBLISHED_ITERATIONS: Mapping[str, int] = MappingProxyType(
    {"art": 10, "admm-l1": 200, "admm-tv": 100, "admm-hybrid": 100, "pp-mpi": 150}
)
"""Iterations or sweeps of each method of the paper that has hand-set weights."""


def published_weights(method: str, snr_db: float) -> dict[str, float]:
    """Return the weights that the paper gives for a method at a measurement SNR in dB.

    Parameters
    ----------
    method : str
        Name of the method, a key of `PUBLISHED_ITERATIONS`.
    snr_db : float
        Measurement SNR in dB.

    Returns
    -------
    dict of str to float
        Weights by the names of `engine.solvers.regularization.WEIGHT_NAMES`. Those of ADMM are alpha / mu of
        Eq. (11).

    Raises
    ------
    KeyError
        If the method is not in the paper, or has no hand-set weights there.
    """
    match method:
        case "art":
            return {"lambda": 10.0 if snr_db < 15 else 1.0 if snr_db < 35 else 0.1}
        case "admm-l1":
            return {"l1": 1 / 250}
        case "admm-tv":
            return {"tv": 1 / 50}
        case "admm-hybrid":
            tenths = 1 if snr_db < 20 else 8 if snr_db < 30 else 9  # alpha_1 in tenths; mu = 10
            return {"l1": tenths / 100, "tv": (10 - tenths) / 100}
        case "pp-mpi":
            return {"scale": 1.0}
    raise KeyError(method)
