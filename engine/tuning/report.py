"""A tuning as Markdown tables: the chosen values beside the paper's, and everything that was tried."""

from collections.abc import Iterator, Mapping, Sequence

from engine.reconstruction.methods import hand_set
from engine.tuning.result import MethodTuning, Trial, TuningResult


def tuning_report(result: TuningResult) -> str:
    """Return the tables of a tuning as Markdown, to stand under a title."""
    config = result.config
    lines = [
        f"Mean pSNR in dB (Eq. 37) over {config.frames} validation frames per SNR, seed {config.seed}; in "
        "brackets its standard deviation over the frames. `as used`: every frame with the weights of its own "
        "estimated SNR, as in a reconstruction, and not with those of the mean SNR.",
        "",
        "## Chosen",
        "",
        *_table(
            ("method", "SNR", "paper", "iterations", "pSNR", "chosen", "iterations", "pSNR", "as used"),
            _chosen(result.methods),
        ),
        *_limits(result.methods),
    ]
    for method, tuning in result.methods.items():
        names = hand_set(method).names
        lines += ["", f"## Tried: {method}", ""]
        lines += _table(("SNR", "iterations", *names, "pSNR", "values"), _tried(tuning, names))
    return "\n".join(lines) + "\n"


def _chosen(methods: Mapping[str, MethodTuning]) -> Iterator[tuple[str, ...]]:
    for method, tuning in methods.items():
        published = tuning.published or (None,) * len(tuning.chosen)
        for paper, chosen, used in zip(published, tuning.chosen, tuning.as_used, strict=True):
            before = ("-",) * 3 if paper is None else _setting(paper)
            yield method, f"{chosen.snr_db:g}", *before, *_setting(chosen), f"{used:.2f}"


def _setting(trial: Trial) -> tuple[str, str, str]:
    weights = ", ".join(f"{name} {value:g}" for name, value in trial.weights.items())
    return weights, str(trial.iterations), _psnr(trial)


def _psnr(trial: Trial) -> str:
    return f"{trial.psnr_mean:.2f} ({trial.psnr_std:.2f})"


def _limits(methods: Mapping[str, MethodTuning]) -> list[str]:
    ended = [method for method, tuning in methods.items() if tuning.at_limit]
    return ["", f"At the end of what is searched: {', '.join(ended)}."] if ended else []


def _tried(tuning: MethodTuning, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for trial in sorted(
        tuning.trials, key=lambda trial: (trial.snr_db, trial.iterations, tuple(trial.weights.values()))
    ):
        marks = [
            mark
            for mark, trials in (("paper", tuning.published), ("chosen", tuning.chosen))
            if trial in trials
        ]
        weights = (f"{trial.weights[name]:g}" for name in names)
        yield f"{trial.snr_db:g}", str(trial.iterations), *weights, _psnr(trial), ", ".join(marks)


def _table(heads: Sequence[str], rows: Iterator[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
