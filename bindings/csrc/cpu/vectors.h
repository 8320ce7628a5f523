// Vector types of WIDTH floats (GCC's and Clang's extension) for the file of one instruction set.
#pragma once

#include <cstdint>

#include "machine.h"
#include "kernels.h"
#include "restart_scheme.h"

#define RESTART_VECTORS(WIDTH_)                                                        \
    constexpr int WIDTH = WIDTH_;                                                      \
    typedef float F32 __attribute__((vector_size(4 * WIDTH_)));                        \
    typedef std::int32_t I32 __attribute__((vector_size(4 * WIDTH_)));                 \
    typedef std::uint32_t U32 __attribute__((vector_size(4 * WIDTH_)));                \
    typedef std::uint64_t U64 __attribute__((vector_size(4 * WIDTH_)));                \
    typedef std::uint16_t U16 __attribute__((vector_size(2 * WIDTH_)));
