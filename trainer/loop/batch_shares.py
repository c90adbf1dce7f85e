"""What one of several processes draws of every batch."""

from dataclasses import replace

from engine.machine.checked_values import require
from trainer.config import TrainConfig


def share_batches(config: TrainConfig, count: int) -> TrainConfig:
    """Return the configuration of one process: every batch size divided by the number of processes.

    Parameters
    ----------
    config : TrainConfig
        Its batch sizes are those of a step over all processes.
    count : int
        Number of processes.

    Returns
    -------
    TrainConfig

    Raises
    ------
    ConfigError
        If a batch cannot be dealt out evenly.
    """
    if count == 1:
        return config
    pretrain, fit = config.pretrain, config.fit
    rdn = replace(pretrain.rdn, batch_size=_share("pretrain.rdn", pretrain.rdn.batch_size, count))
    lc = replace(pretrain.lc, batch_size=_share("pretrain.lc", pretrain.lc.batch_size, count))
    stages = tuple(
        replace(stage, batch_size=_share(f"fit.stages[{index}]", stage.batch_size, count))
        for index, stage in enumerate(fit.stages)
    )
    return replace(config, pretrain=replace(pretrain, rdn=rdn, lc=lc), fit=replace(fit, stages=stages))


def _share(table: str, batch_size: int, count: int) -> int:
    require(
        batch_size % count == 0,
        f"{table}.batch_size",
        batch_size,
        f"a multiple of the {count} processes: it counts the images of a step over all of them",
    )
    return batch_size // count
