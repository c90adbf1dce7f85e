"""Reconstruct frames with known truth, and the figures of merit of the images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.mpi.metrics import psnr_db, ssim_global, ssim_windowed
from engine.reconstruction.reconstructor import Reconstruction, Reconstructor


def image_quality(images: NDArray[np.floating], truth: NDArray[np.floating]) -> dict[str, Any]:
    """Return mean and spread of pSNR (Eq. 37, dB) and SSIM (Eq. 38, %) of images (F, Ny, Nx).

    `ssim_windowed_mean` is SSIM as usually computed, over 7 x 7 windows; the paper prints the global form.
    """
    psnr = psnr_db(images, truth)
    ssim, windowed = (100 * metric(images, truth) for metric in (ssim_global, ssim_windowed))
    return {
        "psnr_mean": float(psnr.mean()),
        "psnr_std": float(psnr.std()),
        "ssim_mean": float(ssim.mean()),
        "ssim_std": float(ssim.std()),
        "ssim_windowed_mean": float(windowed.mean()),
        "n": len(images),
    }


def effort(done: list[Reconstruction]) -> dict[str, Any]:
    """Return milliseconds per frame (median; of frames solved together their mean) and mean iterations."""
    return {
        "ms": float(np.median([frame.report.milliseconds for frame in done])),
        "iterations": float(np.mean([frame.report.iterations for frame in done])),
    }


def reconstruct(
    solver: Reconstructor, rows: NDArray[np.floating], sigma: float | None = None
) -> tuple[NDArray[np.float32], list[Reconstruction]]:
    """Reconstruct emulated frames of one slice.

    Parameters
    ----------
    solver : Reconstructor
    rows : ndarray of float, shape (F, R)
        In the normalised unit of the solver's operators (`engine.tuning.emulation.Frames.rows`).
    sigma : float, optional
        Noise standard deviation per real row in whitened units; by default estimated from each frame, as on a
        scanner.

    Returns
    -------
    images : ndarray of float32, shape (F, Ny, Nx)
    done : list of Reconstruction
    """
    done = solver.reconstruct_frames(rows * solver.operators.scale, sigma)
    return np.stack([frame.image[0] for frame in done]), done
