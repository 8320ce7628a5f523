r"""The condition of a WHILE node in a CUDA graph: another row as long as a sample is live.

This is the one kernel that talks to the graph it runs in. `cudaGraphSetConditional` is a function of CUDA's device
runtime, which the driver links when it loads the module. It exists on a GPU only, so there is no reference beside it,
and only the engine's WHILE executor imports this file.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language import core

_SIGNATURE = (core.dtype("int64"), core.dtype("int32"))


@core.extern
def _set_conditional(handle, value, _semantic=None):
    # The function returns nothing, which cannot be declared here; the int32 is not read.
    symbols = {_SIGNATURE: ("cudaGraphSetConditional", core.dtype("int32"))}
    return core.extern_elementwise("", "", [handle, value], symbols, is_pure=False, _semantic=_semantic)


@triton.jit
def _thread():
    """Return the index of the thread that runs this: the one value here that differs within the program."""
    return tl.inline_asm_elementwise("mov.u32 $0, %tid.x;", "=r", [], dtype=tl.int32, is_pure=False, pack=1)


# n is 1 for a batch with one cursor, and a specialised 1 would be a kernel of its own.
@triton.jit(do_not_specialize=["n"])
def condition_kernel(handle_ptr, cursor_ptr, n, BLOCK: tl.constexpr):
    """Set the condition to 1 while any of the n cursors is ≥ 0, else to 0. One program of one warp.

    Only the first thread makes the call: CUDA leaves concurrent calls for one handle undefined, equal values or not.
    The handle is read from memory, so that one compiled kernel serves every graph. A handle of 0 sets nothing: a launch
    with it loads the module before a capture begins.
    """
    live = tl.zeros([BLOCK], tl.int32)
    for first in range(0, n, BLOCK):
        b = first + tl.arange(0, BLOCK)
        live |= (tl.load(cursor_ptr + b, mask=b < n, other=-1) >= 0).to(tl.int32)
    any_live = tl.max(live, axis=0)  # all threads take part in this, so it comes before the branch
    handle = tl.load(handle_ptr)
    if handle != 0:  # noqa: SIM102 (two branches are what the compiler keeps as branches)
        if _thread() == 0:
            _set_conditional(handle, any_live)
