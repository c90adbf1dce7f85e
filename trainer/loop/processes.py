"""Processes that train one model together, each on its own share of every batch.

Gradients are averaged after the backward pass. The hooks of torch's DistributedDataParallel would start
during it, and the implicit gradient runs through the networks many times in one backward pass.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.errors import ConfigError, DeqMpiError

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others, which may be busy with a validation or with making images."""

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process."""


class ProcessError(DeqMpiError):
    """Another process of the run failed or ended, and this one cannot go on without it."""


class Processes(Protocol):
    """The processes of a run as one of them sees them.

    Every method is called by all of them in the same order.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    count : int
    local_rank : int
        Number of this process on its machine, which is that of its CUDA device.
    """

    @property
    def rank(self) -> int: ...  # noqa: D102 - see Attributes

    @property
    def count(self) -> int: ...  # noqa: D102

    @property
    def local_rank(self) -> int: ...  # noqa: D102

    @property
    def is_main(self) -> bool:
        """Whether this is the process that validates, writes and prints."""
        ...

    def broadcast(self, module: nn.Module) -> None:
        """Give all processes the weights of the main one."""
        ...

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradient of each parameter by its mean over the processes."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """Join tensors (n, ...) of one shape along their first axis, in the order of the ranks."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Carry out a part that may fail in one process: its error ends all of them."""
        ...

    def on_main(self, action: Callable[[], T]) -> T:
        """Carry out an action in the main process, and return its result in all."""
        ...


class SingleProcess:
    """A run of one process."""

    rank = 0
    count = 1
    local_rank = 0
    is_main = True

    def broadcast(self, module: nn.Module) -> None:
        """Leave the weights as they are."""

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Leave the gradients as they are."""

    def gather(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values

    def any(self, flag: bool) -> bool:
        """Return the flag."""
        return flag

    def together(self) -> AbstractContextManager[None]:
        """Do nothing more."""
        return nullcontext()

    def on_main(self, action: Callable[[], T]) -> T:
        """Carry out the action."""
        return action()


class ProcessGroup:
    """Processes connected through torch.distributed, whose default group must be there."""

    def __init__(self, local_rank: int) -> None:
        self.rank = dist.get_rank()
        self.count = dist.get_world_size()
        self.local_rank = local_rank
        self.is_main = self.rank == 0

    def broadcast(self, module: nn.Module) -> None:
        """Give all processes the weights of the main one."""
        with torch.no_grad(), _connected():
            for value in module.state_dict().values():
                sent = value.clone(memory_format=torch.contiguous_format)
                dist.broadcast(sent, src=0)
                value.copy_(sent)

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average all gradients in one exchange of a flat buffer."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        with _connected():
            dist.all_reduce(flat)
        flat /= self.count
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def gather(self, values: Tensor) -> Tensor:
        """Join tensors of all processes."""
        parts = [torch.empty_like(values) for _ in range(self.count)]
        with _connected():
            dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def any(self, flag: bool) -> bool:
        """Ask all processes."""
        raised = torch.tensor(int(flag))
        with _connected():
            dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait for all at the end; each raises its own error, or else that of the first that has one."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # of any kind: the others would wait for this process
            failure = error
        if not self.any(failure is not None):
            return
        failures: list[DeqMpiError | None] = [None] * self.count
        with _connected():
            dist.all_gather_object(failures, self._as_told(failure))
        raise failure or next(error for error in failures if error is not None)

    def on_main(self, action: Callable[[], T]) -> T:
        """Let the others wait for the result."""
        result: list[Any] = [None]
        with self.together():
            if self.is_main:
                result[0] = action()
        with _connected():
            dist.broadcast_object_list(result, src=0, device=torch.device("cpu"))
        shared: T = result[0]
        return shared

    def _as_told(self, failure: Exception | None) -> DeqMpiError | None:
        """Return an error as the other processes are to raise it."""
        if failure is None or isinstance(failure, DeqMpiError):
            return failure
        return ProcessError(
            f"process {self.rank} of {self.count} failed with {type(failure).__name__}: {failure}; "
            "its own message says where"
        )


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Connect to the other processes if torchrun started this one among several; leave them at the end.

    Yields
    ------
    Processes
        `SingleProcess` outside torchrun, and where it starts one process only.

    Raises
    ------
    ConfigError
        If only a part of what torchrun sets is there.
    ProcessError
        If the others cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield SingleProcess()
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} but {missing[0]} is not set; expected all of "
            f"{', '.join(VARIABLES)}: start with torchrun, or unset WORLD_SIZE"
        )
    # What is not in GPU memory goes through gloo also where there are GPUs.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _connected():
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield ProcessGroup(int(os.environ["LOCAL_RANK"]))
    finally:
        dist.destroy_process_group()


@contextmanager
def _connected() -> Iterator[None]:
    """Turn a broken connection into a `ProcessError`."""
    try:
        yield
    except RuntimeError as error:  # also torch's DistError
        reason = str(error).partition(". ")[0]  # what follows is general advice
        raise ProcessError(
            f"the connection to the other processes broke ({reason}); expected all of them until the end: "
            "look for the first error among them, then continue with --resume"
        ) from error
