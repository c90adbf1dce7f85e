"""What a bundle says of the stability of its networks."""

from dataclasses import replace

from export.bundle import _stability
from trainer.config import DataConfig, FitConfig, TrainConfig

CONFIG = TrainConfig("some", DataConfig("scan.mdf", validation_snr=(20.0, 30.0)))


def test_facts_name_the_frames_and_their_snr() -> None:
    best = {"validation_psnr": 30.0, "validation_spectral_radius_median": 0.9}
    facts = _stability(replace(CONFIG, fit=FitConfig(spectral_frames=3)), best)
    assert facts["spectral_radius"] == {"median": 0.9}
    assert (facts["frames"], facts["snr_db"]) == (3, [20.0, 30.0])
    assert _stability(replace(CONFIG, fit=FitConfig(spectral_frames=1)), best)["snr_db"] == [20.0]


def test_a_run_that_did_not_measure_it_states_nothing() -> None:
    assert _stability(CONFIG, {"validation_psnr": 30.0}) == {}
