// The fused row as the work of one thread. Mirrors restart_kernels/row/reference.py bit for bit.
//
// A whole block is at the same row, so what depends on it (what is read, what is stored, whether there is noise) is a
// uniform branch; there is no shared memory, no barrier and no loop.
//
// A machine is wide when its rows may use more than x, h, F and one noise term: h2, h3, a second noise term, a known
// image or weights from `mix`. Wide machines have kernels of their own, one for each dtype, in which each of these and
// guidance are uniform branches; the kernels of the others know nothing of them.
#pragma once

#include "kernels.h"
#include "machine.h"

namespace restart::cuda {

// A machine and a network output, as in restart_kernels/machine.py; a tensor that is absent is null.
struct RowArgs {
  float *x, *h, *h2, *h3;
  const void *F, *F_uncond;
  void* net_in;
  const float* coef;
  const int32_t* code;
  int32_t* cursor;
  const int64_t* seeds;
  int32_t* first_bad;
  const float *known, *mask, *mix;
  int64_t batch, numel;  // samples; elements of each, below 2³¹
  int32_t rows;           // of the table
  int32_t cursor_stride;  // 0: one cursor for all
  Float F_dtype, net_dtype;
  int32_t halves;  // of net_in: 2 under guidance, both are written
  int32_t noises;
  int32_t served;  // the flags of a row that count, by `served_flags`; launch.h sets it
};

inline bool is_wide(const RowArgs& a) { return a.h2 || a.noises == 2 || a.known || a.mix; }

// The scalars of a row; those of `Wide` are read in the kernels of wide machines alone.
struct Row {
  float y_x, y_h, y_F, s, g_x, g_h, g_F, c_in, w;
  int32_t flags;
  uint32_t draw;
};
struct Wide {
  float y_h2, y_h3, g_h2, g_h3, s2, k, s_k;
  float alpha_c, alpha_u;  // the weights of the two outputs, where the row has a method
  uint32_t draw2, draw_k;
};

template <bool GUIDED>
RESTART_HD Row read_row(const RowArgs& a, int32_t row) {
  const float* c = a.coef + static_cast<int64_t>(row) * layout::NUM_COEF;
  const int32_t* code = a.code + static_cast<int64_t>(row) * layout::NUM_CODE;
  int32_t flags = code[layout::FLAGS] & a.served;
  if (GUIDED && !(flags & layout::READ_F)) flags &= ~layout::GUIDE;  // an unread F is +0, whatever the weights
  return {c[layout::Y_X], c[layout::Y_H], c[layout::Y_F],  c[layout::S], c[layout::G_X], c[layout::G_H],
          c[layout::G_F], c[layout::C_IN], c[layout::W],   flags,        static_cast<uint32_t>(code[layout::DRAW])};
}

RESTART_HD Wide read_wide(const RowArgs& a, int32_t row, int64_t sample, int32_t flags) {
  const float* c = a.coef + static_cast<int64_t>(row) * layout::NUM_COEF;
  const int32_t* code = a.code + static_cast<int64_t>(row) * layout::NUM_CODE;
  const bool weighed = (flags & METHODS) != 0;
  return {c[layout::Y_H2],
          c[layout::Y_H3],
          c[layout::G_H2],
          c[layout::G_H3],
          a.noises == 2 ? c[layout::S2] : 0.0f,
          c[layout::K],
          c[layout::S_K],
          weighed ? a.mix[2 * sample] : 0.0f,
          weighed ? a.mix[2 * sample + 1] : 0.0f,
          static_cast<uint32_t>(code[layout::DRAW2]),
          static_cast<uint32_t>(code[layout::DRAW_K])};
}

// v + std·ε of counter `quad`; nothing is added where std is 0, since +0 would make +0 of −0.
RESTART_HD void add_noise(float (&v)[4], float std, uint32_t quad, uint32_t draw, uint64_t seed) {
  if (std == 0.0f) return;
  float z[4];
  normal4(quad, draw, scheme::STREAM_NORMAL, seed, z);
  for (int k = 0; k < 4; ++k) v[k] = v[k] + std * z[k];
}

// y + b·h and g + c·h of a register h that the row reads.
template <class Register>
RESTART_HD void add_register(float (&y)[4], float (&g)[4], float b, float c, const typename Register::Packed& packed) {
  float h[4];
  Register::unpack(packed, h);
  for (int k = 0; k < 4; ++k) {
    y[k] = y[k] + b * h[k];
    g[k] = g[k] + c * h[k];
  }
}

// Runs row cursor[b] on the counters at `at`. Register, Output and Input are how float32 tensors, F, and net_in are
// accessed.
template <int QUADS, bool GUIDED, bool WIDE, class Register, class Output, class Input>
RESTART_HD void row_thread(const RowArgs& a, Place at, Register register_, Output output, Input input) {
  const int32_t at_row = a.cursor[at.sample * a.cursor_stride];
  if (idle(at_row, a.rows)) return;
  const Row r = read_row<GUIDED>(a, at_row);
  Wide wide{};
  if constexpr (WIDE) wide = read_wide(a, at_row, at.sample, r.flags);
  const int64_t base = at.sample * a.numel + static_cast<int64_t>(at.quad) * 4;
  const int left = elements_left(a.numel, at.quad);

  // The loads are issued before the noise is computed, which hides their latency. An unread register is +0.
  typename Register::Packed xs[QUADS], hs[QUADS], h2s[QUADS], h3s[QUADS], ks[QUADS], Ms[QUADS];
  typename Output::Packed Fs[QUADS], Fs_uncond[QUADS];
  RESTART_UNROLL
  for (int j = 0; j < QUADS; ++j) {
    const int i = j * WARP * 4, count = left - i;
    const int flags = count > 0 ? r.flags : 0;
    xs[j] = flags & layout::READ_X ? register_.load(a.x, base + i, count) : Register::zeros();
    hs[j] = flags & layout::READ_H ? register_.load(a.h, base + i, count) : Register::zeros();
    Fs[j] = flags & layout::READ_F ? output.load(a.F, base + i, count) : Output::zeros();
    if (GUIDED) Fs_uncond[j] = flags & layout::GUIDE ? output.load(a.F_uncond, base + i, count) : Output::zeros();
    if constexpr (WIDE) {
      h2s[j] = flags & layout::READ_H2 ? register_.load(a.h2, base + i, count) : Register::zeros();
      h3s[j] = flags & layout::READ_H3 ? register_.load(a.h3, base + i, count) : Register::zeros();
      ks[j] = flags & layout::PASTE ? register_.load(a.known, base + i, count) : Register::zeros();
      Ms[j] = flags & layout::PASTE ? register_.load(a.mask, base + i, count) : Register::zeros();
    }
  }

  const bool noisy = r.s != 0.0f;
  const uint64_t seed = noisy || WIDE ? static_cast<uint64_t>(a.seeds[at.sample]) : 0;
  float noise[QUADS][4];
  if (noisy) {
    RESTART_UNROLL
    for (int j = 0; j < QUADS; ++j) {
      normal4(at.quad + j * WARP, r.draw, scheme::STREAM_NORMAL, seed, noise[j]);
      for (int k = 0; k < 4; ++k) noise[j][k] = r.s * noise[j][k];
    }
  }

  float largest = 0.0f;  // largest |y|, NaN if one y is: one test and at most one atomic per thread
  RESTART_UNROLL
  for (int j = 0; j < QUADS; ++j) {
    const int i = j * WARP * 4, count = left - i;
    float x[4], h[4], F[4], y[4], g[4], net[4];
    Register::unpack(xs[j], x);
    Register::unpack(hs[j], h);
    Output::unpack(Fs[j], F);
    if (GUIDED && r.flags & layout::GUIDE) {
      float F_uncond[4];
      Output::unpack(Fs_uncond[j], F_uncond);
      if (WIDE && r.flags & METHODS) {
        for (int k = 0; k < 4; ++k) F[k] = wide.alpha_c * F[k] + wide.alpha_u * F_uncond[k];
      } else {
        for (int k = 0; k < 4; ++k) F[k] = F_uncond[k] + r.w * (F[k] - F_uncond[k]);
      }
    }
    RESTART_UNROLL
    for (int k = 0; k < 4; ++k) {
      y[k] = r.y_x * x[k] + r.y_h * h[k];
      g[k] = r.g_x * x[k] + r.g_h * h[k];
    }
    if constexpr (WIDE) {
      // An unread h2 or h3 has the coefficient −0 (layout.py), and adding −0 changes nothing.
      if (r.flags & layout::READ_H2) add_register<Register>(y, g, wide.y_h2, wide.g_h2, h2s[j]);
      if (r.flags & layout::READ_H3) add_register<Register>(y, g, wide.y_h3, wide.g_h3, h3s[j]);
    }
    RESTART_UNROLL
    for (int k = 0; k < 4; ++k) {
      y[k] = y[k] + r.y_F * F[k];
      g[k] = g[k] + r.g_F * F[k];
      if (noisy) y[k] = y[k] + noise[j][k];  // adding 0 would make +0 of −0
    }
    if constexpr (WIDE) {
      add_noise(y, wide.s2, at.quad + j * WARP, wide.draw2, seed);
      if (r.flags & layout::PASTE) {
        float known[4], M[4];
        Register::unpack(ks[j], known);
        Register::unpack(Ms[j], M);
        for (int k = 0; k < 4; ++k) known[k] = wide.k * known[k];
        add_noise(known, wide.s_k, at.quad + j * WARP, wide.draw_k, seed);
        for (int k = 0; k < 4; ++k) y[k] = M[k] * y[k] + (1.0f - M[k]) * known[k];
      }
    }
    RESTART_UNROLL
    for (int k = 0; k < 4; ++k) {
      net[k] = r.c_in * y[k];
      if (k < count) largest = max_abs_nan(largest, y[k]);
    }
    const int flags = count > 0 ? r.flags : 0;
    if (flags & layout::STORE_X) register_.store(a.x, base + i, y, count);
    if (flags & layout::STORE_H) register_.store(a.h, base + i, g, count);
    if constexpr (WIDE) {
      if (flags & layout::STORE_H2) register_.store(a.h2, base + i, g, count);
      if (flags & layout::STORE_H3) register_.store(a.h3, base + i, g, count);
    }
    if (flags & layout::STORE_NET) {
      input.store(a.net_in, base + i, net, count);
      if (GUIDED && (!WIDE || a.halves == 2)) input.store(a.net_in, a.batch * a.numel + base + i, net, count);
    }
  }
  if (!(largest < INFINITY)) reduce_min(a.first_bad + at.sample, at_row);
}

// A kernel is a type with QUADS, Args and run. launch.h chooses among these.

template <class T, bool GUIDED, int QUADS_>
struct RowVectors {
  using Args = RowArgs;
  static constexpr int QUADS = QUADS_;
  RESTART_HD static void run(const Args& a, Place at) {
    row_thread<QUADS, GUIDED, false>(a, at, Vectors<float>{}, Vectors<T>{}, Vectors<T>{});
  }
};

template <bool GUIDED>
struct RowElements {
  using Args = RowArgs;
  static constexpr int QUADS = 1;
  RESTART_HD static void run(const Args& a, Place at) {
    row_thread<QUADS, GUIDED, false>(a, at, Elements{Float::float32}, Elements{a.F_dtype}, Elements{a.net_dtype});
  }
};

template <class T, int QUADS_>
struct WideVectors {
  using Args = RowArgs;
  static constexpr int QUADS = QUADS_;
  RESTART_HD static void run(const Args& a, Place at) {
    row_thread<QUADS, true, true>(a, at, Vectors<float>{}, Vectors<T>{}, Vectors<T>{});
  }
};

struct WideElements {
  using Args = RowArgs;
  static constexpr int QUADS = 1;
  RESTART_HD static void run(const Args& a, Place at) {
    row_thread<QUADS, true, true>(a, at, Elements{Float::float32}, Elements{a.F_dtype}, Elements{a.net_dtype});
  }
};

}  // namespace restart::cuda
