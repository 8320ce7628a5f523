"""The norms as `aot.py` compiles them: shapes of networks that people sample, each layout, a group that is looped over.

group-norm-DTYPE[-last][-loop]     256 channels in 32 groups at 32 × 32, the CIFAR-10 DDPM++; -loop: 192 channels
                                   at 64 × 64, ADM's ImageNet-64 network; e, a and b are given
pixel-norm-DTYPE[-last]            256 channels at 32 × 32, EDM2-XS's
"""

from __future__ import annotations

from typing import Any, NamedTuple

SHAPES = {False: (256, 32, 1024), True: (192, 32, 4096)}  # loop → channels, groups, pixels
SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
NAMES = tuple(
    f"{norm}-{dtype}{last}{loop}"
    for norm, loops in (("group-norm", ("", "-loop")), ("pixel-norm", ("", "-wide")))
    for dtype in ("fp32", "bf16")
    for last in ("", "-last")
    for loop in loops
)


class Launch(NamedTuple):
    """A kernel, types of its arguments and its constants, options, elements of a program in one turn, bytes an element.

    `least` is what any kernel moves that reads x once and writes each result once.
    """

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]
    elements: int
    bytes: int
    least: int


def launch(name: str) -> Launch:
    """Return how one of NAMES is launched."""
    from . import triton as kernels

    norm, _, dtype, *rest = name.split("-")
    last, loop, size = "last" in rest, "loop" in rest, SIZES[dtype]
    C, groups, HW = SHAPES[loop] if "wide" not in rest else (1792, 32, 1024)
    run = "stride_c" if last else "stride_p"
    if norm == "pixel":
        P, wide = kernels.pixels_of(C, last), kernels.triton.next_power_of_2(C)
        types = dict.fromkeys(("y_ptr", "h_ptr", "x_ptr"), f"*{dtype}") | dict.fromkeys(("C", "HW"), "i32")
        types |= {"stride_c": "i32", "stride_p": "i32", "eps": "fp32", "scale": "fp32"}
        constants = {"WIDE": wide, "P": P, "INTERPRETED": False, run: 1}
        types.pop(run)
        options = kernels.options(wide * P)
        return Launch(kernels.pixel_norm_kernel, types, constants, options, wide * P, 3 * size, 3 * size)
    config = kernels.configure(C // groups, HW, size, last)
    wide = kernels.triton.next_power_of_2(C // groups)
    types = dict.fromkeys(("y_ptr", "x_ptr", "e_ptr", "a_ptr", "b_ptr"), f"*{dtype}")
    types |= dict.fromkeys(("weight_ptr", "bias_ptr"), "*fp32")
    types |= dict.fromkeys(("C", "HW", "groups", "stride_c", "stride_p", "stride_e", "stride_a", "stride_b"), "i32")
    types |= {"eps": "fp32"}
    types.pop(run)
    constants = {"CG": C // groups, "WIDE": wide, "K": config.K, "P": config.P, "LOOP": config.loop, "ACT": True}
    constants |= {"INTERPRETED": False, run: 1}
    elements = config.K * wide * config.P
    moved = (3 if config.loop else 2) * size
    options = kernels.options(elements)
    return Launch(kernels.group_norm_kernel, types, constants, options, elements, moved, 2 * size)
