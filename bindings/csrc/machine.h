// What the CPU and the CUDA library know alike of a machine (restart_kernels/machine.py). Both have the same names for
// the tensors in their RowArgs; a tensor that is absent is null.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "restart_scheme.h"

namespace restart {

constexpr std::int32_t METHODS = layout::RESCALE | layout::ZERO_STAR | layout::APG;  // as in row/weights.py

// Throws std::invalid_argument, a ValueError in Python, unless the tensors that are there go together.
template <class RowArgs>
void check_together(const RowArgs &a) {
    if ((a.h2 && !a.h) || (a.h3 && !a.h2))
        throw std::invalid_argument("the history registers must be the first ones: h before h2 before h3");
    if (!a.known != !a.mask) throw std::invalid_argument("known and mask go together: give both or neither");
    if (a.noises != 1 && a.noises != 2) throw std::invalid_argument("noises must be 1 or 2");
}

// Returns all flags of a row but those of absent tensors, so that a kernel looks at the flags alone.
template <class RowArgs>
std::int32_t served_flags(const RowArgs &a) {
    std::int32_t absent = 0;
    if (!a.h) absent |= layout::READ_H | layout::STORE_H;
    if (!a.h2) absent |= layout::READ_H2 | layout::STORE_H2;
    if (!a.h3) absent |= layout::READ_H3 | layout::STORE_H3;
    if (!a.known) absent |= layout::PASTE;
    if (!a.mix) absent |= METHODS;
    if (!a.F) absent |= layout::READ_F;
    if (!a.F_uncond) absent |= layout::GUIDE;
    return ~absent;
}

}  // namespace restart
