"""The margins of deq, from rows whose means are known by heart, and the joined training curve."""

from typing import Any

from benchmarks.accuracy import margins
from benchmarks.training_curve import _in_a_row


def rows(method: str, psnr: tuple[float, ...], gradient: float = 0.5) -> list[dict[str, Any]]:
    return [
        {"method": method, "snr_db": snr, "test_gradient": gradient, "psnr_mean": value}
        | {"ssim_mean": 90.0 + value / 10, "ssim_windowed_mean": 80.0 + value / 10}
        for snr, value in zip((15.0, 25.0, 35.0), psnr, strict=False)
    ]


def test_margins_are_differences_of_means_over_the_snrs() -> None:
    deq = rows("deq", (30.0, 33.0, 39.0))  # mean 34
    field = (
        rows("admm-tv", (20.0, 22.0, 30.0))
        + rows("art", (21.0, 21.0, 27.0))
        + rows("pp-mpi", (29.0, 32.0, 35.0))
    )
    found = {line["deq over"]: line for line in margins(deq + field)}
    assert list(found) == ["best hand-crafted (admm-tv)", "pp-mpi"]
    assert found["best hand-crafted (admm-tv)"]["pSNR / dB"] == "+10.00"
    assert found["pp-mpi"]["pSNR / dB"] == "+2.00"
    assert found["pp-mpi"]["windowed SSIM / %"] == "+0.20"


def test_what_was_not_measured_at_all_snrs_is_not_compared() -> None:
    deq = rows("deq", (30.0, 33.0, 39.0))
    assert margins(deq + rows("pp-mpi", (29.0, 32.0))) == []
    assert margins(rows("pp-mpi", (29.0, 32.0, 35.0))) == []


def test_logs_in_a_row_count_steps_through() -> None:
    first = [{"step": 0, "v": "start"}, {"step": 5, "v": "a"}]
    second = [{"step": 0, "v": "the same again"}, {"step": 2, "v": "b"}]
    assert _in_a_row([first, second]) == [*first, {"step": 7, "v": "b"}]
