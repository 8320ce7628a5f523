"""The norms as `aot.py` compiles them: shapes of networks that people sample, each layout, a group that is looped over.

group-norm-DTYPE[-last][-loop]     256 channels in 32 groups at 32 × 32, the CIFAR-10 DDPM++; -loop: 192 channels
                                   at 64 × 64, ADM's ImageNet-64 network; all vectors are given
pixel-norm-DTYPE[-last][-wide]     256 channels at 32 × 32, EDM2-XS's; -wide: 1,792, more than any block of EDM2-XXL
"""

from __future__ import annotations

from typing import Any

from ..variant import Variant

SHAPES = {False: (256, 32, 1024), True: (192, 32, 4096)}  # loop → channels, groups, pixels
WIDE = (1792, 32, 1024)
SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
NAMES = tuple(
    f"{norm}-{dtype}{last}{loop}"
    for norm, loops in (("group-norm", ("", "-loop")), ("pixel-norm", ("", "-wide")))
    for dtype in ("fp32", "bf16")
    for last in ("", "-last")
    for loop in loops
)


def variant(name: str) -> Variant:
    """Return one of NAMES; its report says how many bytes an element the kernel moves, and the least that any could.

    The least is x read once and each result written once.
    """
    from . import triton as kernels

    norm, _, dtype, *rest = name.split("-")
    last, loop, size = "last" in rest, "loop" in rest, SIZES[dtype]
    C, groups, HW = WIDE if "wide" in rest else SHAPES[loop]
    pointers = (
        ("y_ptr", "h_ptr", "x_ptr") if norm == "pixel" else ("y_ptr", "x_ptr", "add_ptr", "scale_ptr", "shift_ptr")
    )
    sizes = ["C", "HW", "stride_p" if last else "stride_c"]  # the other stride is 1
    constants: dict[str, Any] = {"INTERPRETED": False, "stride_c" if last else "stride_p": 1}
    types = dict.fromkeys(pointers, f"*{dtype}") | {"eps": "fp32"}
    if norm == "pixel":
        wide, P = kernels.triton.next_power_of_2(C), kernels.pixels_of(C, last)
        kernel, elements, moved, least = kernels.pixel_norm_kernel, wide * P, 3, 3
        constants |= {"WIDE": wide, "P": P}
    else:
        own = C // groups
        config, wide = kernels.configure(own, HW, size, last), kernels.triton.next_power_of_2(own)
        kernel, elements, moved, least = kernels.group_norm_kernel, config.K * wide * config.P, 2 + config.loop, 2
        constants |= {"CG": own, "WIDE": wide, "K": config.K, "P": config.P, "LOOP": config.loop, "ACT": True}
        sizes += ["groups", "stride_add", "stride_scale", "stride_shift"]
        types |= dict.fromkeys(("weight_ptr", "bias_ptr"), "*fp32")
    types |= dict.fromkeys(sizes, "i32")
    facts = {"bytes_per_element": moved * size, "least_bytes_per_element": least * size}
    return Variant(kernel, types, constants, kernels.options(elements), elements, True, tuple(sizes), facts)
