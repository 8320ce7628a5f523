// How four consecutive elements, those of one Philox counter, are read and written. The kernels are templates over
// these.
#pragma once

#include <type_traits>

#include "device.h"

namespace restart::cuda {

enum class Float : int32_t { float32, bfloat16, float16 };

struct alignas(16) Words4 {
  uint32_t w[4];
};
struct alignas(8) Words2 {
  uint32_t w[2];
};

// One aligned access of 128 or 64 bits.
#if defined(__CUDA_ARCH__)
__device__ __forceinline__ void load_words(const void* p, Words4& words) {
  const uint4 v = *static_cast<const uint4*>(p);
  words = {{v.x, v.y, v.z, v.w}};
}
__device__ __forceinline__ void load_words(const void* p, Words2& words) {
  const uint2 v = *static_cast<const uint2*>(p);
  words = {{v.x, v.y}};
}
__device__ __forceinline__ void store_words(void* p, const Words4& words) {
  *static_cast<uint4*>(p) = make_uint4(words.w[0], words.w[1], words.w[2], words.w[3]);
}
__device__ __forceinline__ void store_words(void* p, const Words2& words) {
  *static_cast<uint2*>(p) = make_uint2(words.w[0], words.w[1]);
}
#else
template <class Words>
RESTART_HD void load_words(const void* p, Words& words) {
  std::memcpy(&words, p, sizeof(Words));
}
template <class Words>
RESTART_HD void store_words(void* p, const Words& words) {
  std::memcpy(p, &words, sizeof(Words));
}
#endif

// A tensor whose samples are whole counters at aligned addresses: one access for four elements. The elements stay
// packed until they are used, so that only their use waits for the load.
template <class T>  // float, BFloat16 or Float16
struct Vectors {
  static constexpr int size = std::is_same_v<T, float> ? 4 : 2;
  using Packed = std::conditional_t<size == 4, Words4, Words2>;

  RESTART_HD static Packed zeros() { return {}; }

  RESTART_HD Packed load(const void* p, int64_t i, int /*count*/) const {
    Packed packed;
    load_words(static_cast<const char*>(p) + i * size, packed);
    return packed;
  }

  RESTART_HD static void unpack(const Packed& packed, float (&v)[4]) {
    if constexpr (size == 4) {
      for (int j = 0; j < 4; ++j) v[j] = float_of(packed.w[j]);
    } else {
      v[0] = T::low(packed.w[0]), v[1] = T::high(packed.w[0]);
      v[2] = T::low(packed.w[1]), v[3] = T::high(packed.w[1]);
    }
  }

  RESTART_HD void store(void* p, int64_t i, const float (&v)[4], int /*count*/) const {
    Packed packed;
    if constexpr (size == 4) {
      packed = {{bits_of(v[0]), bits_of(v[1]), bits_of(v[2]), bits_of(v[3])}};
    } else {
      packed = {{T::pack(v[0], v[1]), T::pack(v[2], v[3])}};
    }
    store_words(static_cast<char*>(p) + i * size, packed);
  }
};

// Any tensor: the dtype is known at run time, only the first `count` of the four elements exist, and the alignment is
// that of an element.
struct Elements {
  Float dtype;

  struct Packed {
    float v[4];
  };

  RESTART_HD static Packed zeros() { return {}; }

  RESTART_HD Packed load(const void* p, int64_t i, int count) const {
    Packed packed = zeros();
    RESTART_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (j >= count) continue;
      if (dtype == Float::float32) {
        packed.v[j] = static_cast<const float*>(p)[i + j];
      } else {
        const uint32_t half = static_cast<const uint16_t*>(p)[i + j];
        packed.v[j] = dtype == Float::bfloat16 ? BFloat16::low(half) : Float16::low(half);
      }
    }
    return packed;
  }

  RESTART_HD static void unpack(const Packed& packed, float (&v)[4]) {
    RESTART_UNROLL
    for (int j = 0; j < 4; ++j) v[j] = packed.v[j];
  }

  RESTART_HD void store(void* p, int64_t i, const float (&v)[4], int count) const {
    RESTART_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (j >= count) continue;
      if (dtype == Float::float32) {
        static_cast<float*>(p)[i + j] = v[j];
      } else {
        const uint32_t pair = dtype == Float::bfloat16 ? BFloat16::pack(v[j], 0.0f) : Float16::pack(v[j], 0.0f);
        static_cast<uint16_t*>(p)[i + j] = static_cast<uint16_t>(pair);
      }
    }
  }
};

}  // namespace restart::cuda
