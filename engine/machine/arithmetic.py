"""Arithmetic while a frame is reconstructed: denormal numbers count as zero, BLAS runs on one thread.

A processor takes a hundred times as long over numbers below 1e-38 as over others, so that one frame of nearly
nothing would come late. ONNX Runtime has a switch of its own for this, but it acts only for the thread that
opens the first session of a process, and stays on there for everything else that thread does.

The products of one frame take a fraction of a millisecond each. Splitting them between threads gains nothing
and, as soon as the cores have other work, makes each product wait for a thread that does not run: ten times
slower frames were seen.
"""

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from threadpoolctl import ThreadpoolController

from engine.machine.compiled import kernel

IS_X86: Final = platform.machine().lower() in ("x86_64", "amd64", "i686")
"""Whether the processor is one whose switch is set: on ARM denormals cost little, and nothing is switched."""

FLUSH_TO_ZERO: Final = 0x8040
"""Bits of the register MXCSR: results (15) and operands (6) that are denormal count as zero."""


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Count denormal numbers as zero in this thread; afterwards the thread is as it was before."""
    if not IS_X86:
        yield
        return
    before = _read_control()
    _write_control(before | FLUSH_TO_ZERO)
    try:
        yield
    finally:
        _write_control(before)


def _call(builder: Any, name: str, place: Any) -> None:
    """Emit a call of an LLVM intrinsic that takes the address of a 32-bit value."""
    address = ir.IntType(8).as_pointer()
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [address]), name)
    builder.call(function, [builder.bitcast(place, address)])


def _stmxcsr_intrinsic(_typing: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        place = builder.alloca(ir.IntType(32))
        _call(builder, "llvm.x86.sse.stmxcsr", place)
        return builder.load(place)

    return types.uint32(), generate


def _ldmxcsr_intrinsic(_typing: Any, _value: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place = builder.alloca(ir.IntType(32))
        builder.store(arguments[0], place)
        _call(builder, "llvm.x86.sse.ldmxcsr", place)
        return context.get_dummy_value()

    return types.void(types.uint32), generate


# numba passes the typing context itself, which its annotations do not say.
_stmxcsr: Any = intrinsic(_stmxcsr_intrinsic)
_ldmxcsr: Any = intrinsic(_ldmxcsr_intrinsic)

if IS_X86:

    @kernel("uint32()")
    def _read_control() -> Any:
        return _stmxcsr()

    @kernel("void(uint32)")
    def _write_control(value: Any) -> None:
        _ldmxcsr(value)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks through the loaded libraries, about a millisecond


def single_blas_thread() -> AbstractContextManager[Any]:
    """Return a context in which BLAS uses one thread, in the whole process while it is open."""
    limit: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limit
