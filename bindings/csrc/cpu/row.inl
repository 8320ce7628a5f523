// The fused row. Mirrors restart_kernels/row/reference.py bit for bit.
//
// A row is wide when it uses more than x, h, F and one noise term: h2, h3, a second noise term, a known image or
// weights from `mix`. Wide rows have a template instance of their own, in which each of these is a uniform branch, so
// the others pay for none of it.

// The row that a sample is at.
struct Row {
    const float *c;
    std::int32_t flags;
    bool noisy;
    Noise noise;
    Float F_type, net_type;
    F32 no_h_in_y, no_h_in_g;  // the term of an h that the row does not read: a zero with the coefficient's sign
};

struct WideRow : Row {
    const float *mix;  // the weights of the two outputs; null: guidance by W
    bool noisy2, noisy_k;
    Noise noise2, noise_k;
};

// Where the next elements of that sample are.
struct Place {
    using OfRow = Row;
    static constexpr bool WIDE = false;
    float *x, *h;
    const char *F, *F_uncond;  // F_uncond null: not guided
    char *net[2];              // the second is null without guidance
};

struct WidePlace : Place {
    using OfRow = WideRow;
    static constexpr bool WIDE = true;
    float *h2, *h3;
    const float *known, *mask;
};

INLINE void go_on(Place &at, std::int64_t F_bytes, std::int64_t net_bytes) {
    at.x += ELEMENTS;
    at.h += ELEMENTS;
    at.F += F_bytes;
    if (at.F_uncond) at.F_uncond += F_bytes;
    at.net[0] += net_bytes;
    if (at.net[1]) at.net[1] += net_bytes;
}

INLINE void go_on(WidePlace &at, std::int64_t F_bytes, std::int64_t net_bytes) {
    go_on(static_cast<Place &>(at), F_bytes, net_bytes);
    at.h2 += ELEMENTS;
    at.h3 += ELEMENTS;
    at.known += ELEMENTS;
    at.mask += ELEMENTS;
}

INLINE void add_product(F32 (&y)[VECTORS], float a, const F32 (&v)[VECTORS]) {
    UNROLL for (int j = 0; j < VECTORS; ++j) y[j] = y[j] + a * v[j];
}

INLINE void add_noise(F32 (&y)[VECTORS], float std, const float *noise) {
    F32 z[VECTORS];
    load_block(z, noise, FLOAT32);
    add_product(y, std, z);
}

// y = M·y + (1 − M)·(K·k + S_K·ε).
INLINE void paste(F32 (&y)[VECTORS], const WideRow &row, const WidePlace &at, const float *noise) {
    F32 k[VECTORS], M[VECTORS];
    load_block(k, at.known, FLOAT32);
    load_block(M, at.mask, FLOAT32);
    UNROLL for (int j = 0; j < VECTORS; ++j) k[j] = row.c[layout::K] * k[j];
    if (row.noisy_k) add_noise(k, row.c[layout::S_K], noise);
    UNROLL for (int j = 0; j < VECTORS; ++j) y[j] = M[j] * y[j] + (1.0f - M[j]) * k[j];
}

// Runs the row on one block. Everything but the arithmetic depends on the row alone, so the branches are predicted, and
// a register that the row does not read or store is not touched. `bad` becomes NaN where y is not finite, and stays
// NaN. NOISY and READ_H are those of a row that is not wide. Its flags stay in memory: a copy costs 13 % with SSE2.
template <bool NOISY, bool READ_H, class At>
INLINE void row_block(F32 (&bad)[VECTORS], const typename At::OfRow &row, const At &at, const float *noise,
                      std::int64_t count) {
    const float *c = row.c;
    F32 x[VECTORS] = {}, h[VECTORS] = {}, h2[VECTORS], h3[VECTORS], F[VECTORS] = {}, y[VECTORS];
    if (row.flags & layout::READ_X) load_block(x, at.x, FLOAT32);
    if (At::WIDE ? row.flags & layout::READ_H : READ_H) load_block(h, at.h, FLOAT32);
    if (row.flags & layout::READ_F) {
        load_block(F, at.F, row.F_type);
        if (at.F_uncond) {
            F32 uncond[VECTORS];
            load_block(uncond, at.F_uncond, row.F_type);
            const float *mix = nullptr;
            if constexpr (At::WIDE) mix = row.mix;
            if (mix) {
                UNROLL for (int j = 0; j < VECTORS; ++j) F[j] = mix[0] * F[j] + mix[1] * uncond[j];
            } else {
                UNROLL for (int j = 0; j < VECTORS; ++j) F[j] = uncond[j] + c[layout::W] * (F[j] - uncond[j]);
            }
        }
    }
    if constexpr (At::WIDE) {
        // An unread h is +0. An unread h2 or h3 has the coefficient −0 (layout.py), and adding −0 changes nothing.
        UNROLL for (int j = 0; j < VECTORS; ++j) y[j] = c[layout::Y_X] * x[j] + c[layout::Y_H] * h[j];
        if (row.flags & layout::READ_H2) {
            load_block(h2, at.h2, FLOAT32);
            add_product(y, c[layout::Y_H2], h2);
        }
        if (row.flags & layout::READ_H3) {
            load_block(h3, at.h3, FLOAT32);
            add_product(y, c[layout::Y_H3], h3);
        }
        add_product(y, c[layout::Y_F], F);
        if (row.noisy) add_noise(y, c[layout::S], noise);
        if (row.noisy2) add_noise(y, c[layout::S2], noise + NORMALS);
        if (row.flags & layout::PASTE) paste(y, row, at, noise + 2 * NORMALS);
        if (row.flags & (layout::STORE_H | layout::STORE_H2 | layout::STORE_H3)) {
            F32 g[VECTORS];
            UNROLL for (int j = 0; j < VECTORS; ++j) g[j] = c[layout::G_X] * x[j] + c[layout::G_H] * h[j];
            if (row.flags & layout::READ_H2) add_product(g, c[layout::G_H2], h2);
            if (row.flags & layout::READ_H3) add_product(g, c[layout::G_H3], h3);
            add_product(g, c[layout::G_F], F);
            if (row.flags & layout::STORE_H) store_block(at.h, g, FLOAT32);
            if (row.flags & layout::STORE_H2) store_block(at.h2, g, FLOAT32);
            if (row.flags & layout::STORE_H3) store_block(at.h3, g, FLOAT32);
        }
    } else {
        // One loop for y and one for g: with 16 vector registers the terms would be spilled between more.
        UNROLL for (int j = 0; j < VECTORS; ++j)
            y[j] = (c[layout::Y_X] * x[j] + (READ_H ? c[layout::Y_H] * h[j] : row.no_h_in_y)) + c[layout::Y_F] * F[j];
        if (NOISY) add_noise(y, c[layout::S], noise);
        if (row.flags & layout::STORE_H) {
            F32 g[VECTORS];
            UNROLL for (int j = 0; j < VECTORS; ++j)
                g[j] =
                    (c[layout::G_X] * x[j] + (READ_H ? c[layout::G_H] * h[j] : row.no_h_in_g)) + c[layout::G_F] * F[j];
            store_block(at.h, g, FLOAT32);
        }
    }
    if (row.flags & layout::STORE_X) store_block(at.x, y, FLOAT32);
    if (row.flags & layout::STORE_NET) {
        F32 net[VECTORS];
        UNROLL for (int j = 0; j < VECTORS; ++j) net[j] = c[layout::C_IN] * y[j];
        store_block(at.net[0], net, row.net_type);
        if (at.net[1]) store_block(at.net[1], net, row.net_type);
    }
    if (count < ELEMENTS) {  // values beyond the end of the sample are ignored
        UNROLL for (int j = 0; j < VECTORS; ++j) {
            I32 lane;
            UNROLL for (int k = 0; k < WIDTH; ++k) lane[k] = j * WIDTH + k;
            y[j] = lane < static_cast<std::int32_t>(count) ? y[j] : F32{};
        }
    }
    UNROLL for (int j = 0; j < VECTORS; ++j) bad[j] = exact_fma(y[j], F32{}, bad[j]);
}

// Runs the row on the last elements of a sample, fewer than a block, through a block in local memory.
template <bool NOISY, bool READ_H, class At>
__attribute__((noinline)) void row_tail(F32 (&bad)[VECTORS], const typename At::OfRow &row, const At &at,
                                        const float *noise, std::int64_t count) {
    alignas(64) float x[ELEMENTS] = {}, h[ELEMENTS] = {}, F[ELEMENTS] = {}, F_uncond[ELEMENTS] = {}, net[ELEMENTS];
    alignas(64) float wide[At::WIDE ? 4 : 1][ELEMENTS];
    const std::int64_t n = count * 4, n_F = count * size_of(row.F_type), n_net = count * size_of(row.net_type);
    if (row.flags & layout::READ_X) __builtin_memcpy(x, at.x, n);
    if (row.flags & layout::READ_H) __builtin_memcpy(h, at.h, n);
    if (row.flags & layout::READ_F) {
        __builtin_memcpy(F, at.F, n_F);
        if (at.F_uncond) __builtin_memcpy(F_uncond, at.F_uncond, n_F);
    }
    At here;
    here.x = x;
    here.h = h;
    here.F = reinterpret_cast<const char *>(F);
    here.F_uncond = at.F_uncond ? reinterpret_cast<const char *>(F_uncond) : nullptr;
    here.net[0] = reinterpret_cast<char *>(net);
    here.net[1] = nullptr;
    if constexpr (At::WIDE) {
        __builtin_memset(wide, 0, sizeof wide);
        if (row.flags & layout::READ_H2) __builtin_memcpy(wide[0], at.h2, n);
        if (row.flags & layout::READ_H3) __builtin_memcpy(wide[1], at.h3, n);
        if (row.flags & layout::PASTE) {
            __builtin_memcpy(wide[2], at.known, n);
            __builtin_memcpy(wide[3], at.mask, n);
        }
        here.h2 = wide[0];
        here.h3 = wide[1];
        here.known = wide[2];
        here.mask = wide[3];
    }
    row_block<NOISY, READ_H>(bad, row, here, noise, count);
    if (row.flags & layout::STORE_X) __builtin_memcpy(at.x, x, n);
    if (row.flags & layout::STORE_H) __builtin_memcpy(at.h, h, n);
    if constexpr (At::WIDE) {
        if (row.flags & layout::STORE_H2) __builtin_memcpy(at.h2, here.h2, n);
        if (row.flags & layout::STORE_H3) __builtin_memcpy(at.h3, here.h3, n);
    }
    if (row.flags & layout::STORE_NET) {
        __builtin_memcpy(at.net[0], net, n_net);
        if (at.net[1]) __builtin_memcpy(at.net[1], net, n_net);
    }
}

// Out of line, since a wide row may call it three times and its code is long.
__attribute__((noinline)) void make_noise(float *z, const Noise &noise, std::uint32_t first) { noise.fill(z, first); }

// Runs the row on elements [first, last) of a sample. Returns whether all y are finite.
template <bool NOISY, bool READ_H, class At>
bool row_range(const typename At::OfRow &row, At at, std::int64_t first, std::int64_t last) {
    const std::int64_t F_stride = ELEMENTS * size_of(row.F_type), net_stride = ELEMENTS * size_of(row.net_type);
    alignas(64) float noise[(At::WIDE ? 3 : 1) * NORMALS];
    std::int64_t made = NORMALS;
    F32 bad[VECTORS] = {};
    for (; first < last; first += ELEMENTS, made += ELEMENTS) {
        if ((NOISY || At::WIDE) && made == NORMALS) {
            const auto counter = static_cast<std::uint32_t>(first / 4);
            if constexpr (At::WIDE) {
                if (row.noisy) make_noise(noise, row.noise, counter);
                if (row.noisy2) make_noise(noise + NORMALS, row.noise2, counter);
                if (row.noisy_k) make_noise(noise + 2 * NORMALS, row.noise_k, counter);
            } else {
                row.noise.fill(noise, counter);
            }
            made = 0;
        }
        const std::int64_t count = last - first;
        if (count < ELEMENTS) {
            F32 last_bad[VECTORS] = {};  // not `bad`, which would then have to live in memory
            row_tail<NOISY, READ_H>(last_bad, row, at, noise + made, count);
            UNROLL for (int j = 0; j < VECTORS; ++j) bad[j] += last_bad[j];
            break;
        }
        row_block<NOISY, READ_H>(bad, row, at, noise + made, ELEMENTS);
        go_on(at, F_stride, net_stride);
    }
    UNROLL for (int j = 1; j < VECTORS; ++j) bad[0] += bad[j];
    const U64 nan = bits<U64>(bad[0] != bad[0]);
    std::uint64_t any = 0;
    UNROLL for (int k = 0; k < WIDTH / 2; ++k) any |= nan[k];
    return any == 0;
}

// Returns the noise of a draw, or nothing of use if it is not `wanted`.
INLINE Noise noise_of(const RowArgs &a, std::int64_t b, std::int32_t draw, bool wanted) {
    return wanted ? Noise(a.seeds[b], static_cast<std::uint32_t>(draw), scheme::STREAM_NORMAL) : Noise();
}

INLINE Row row_of(const RowArgs &a, std::int64_t b, std::int32_t index) {
    const float *c = a.coef + index * std::int64_t{layout::NUM_COEF};
    const std::int32_t *code = a.code + index * std::int64_t{layout::NUM_CODE};
    const bool noisy = c[layout::S] != 0;
    const F32 zero = {};
    return {c,        code[layout::FLAGS] & a.served, noisy, noise_of(a, b, code[layout::DRAW], noisy), a.F_type,
            a.net_type, c[layout::Y_H] * zero, c[layout::G_H] * zero};
}

// The address of element `from` of a float32 tensor; null if the tensor is absent, and then it is not looked at.
template <class T>
INLINE T *element(T *tensor, std::int64_t from) {
    return tensor ? tensor + from : nullptr;
}

INLINE Place place_of(const RowArgs &a, std::int64_t from, bool guided) {
    const std::int64_t F_size = size_of(a.F_type), net_size = size_of(a.net_type), half = a.batch * a.numel;
    auto *net = static_cast<char *>(a.net_in) + from * net_size;
    return {
        a.x + from,
        element(a.h, from),
        static_cast<const char *>(a.F) + (a.F ? from * F_size : 0),
        guided ? static_cast<const char *>(a.F_uncond) + from * F_size : nullptr,
        {net, a.halves == 2 ? net + half * net_size : nullptr},
    };
}

__attribute__((noinline)) bool run_wide(const RowArgs &a, std::int64_t b, std::int32_t index, std::int64_t first,
                                        std::int64_t last) {
    const Row row = row_of(a, b, index);
    const std::int32_t *code = a.code + index * std::int64_t{layout::NUM_CODE};
    const std::int64_t from = b * a.numel + first;
    const bool guided = row.flags & layout::GUIDE;
    const bool noisy2 = a.noises == 2 && row.c[layout::S2] != 0;
    const bool noisy_k = row.flags & layout::PASTE && row.c[layout::S_K] != 0;
    const WideRow wide{
        row,
        guided && row.flags & METHODS ? a.mix + 2 * b : nullptr,
        noisy2,
        noisy_k,
        noise_of(a, b, code[layout::DRAW2], noisy2),
        noise_of(a, b, code[layout::DRAW_K], noisy_k),
    };
    const WidePlace at{place_of(a, from, guided), element(a.h2, from), element(a.h3, from), element(a.known, from),
                       element(a.mask, from)};
    return row_range<true, true>(wide, at, first, last);
}

INLINE bool run_narrow(const RowArgs &a, std::int64_t b, std::int32_t index, std::int64_t first, std::int64_t last) {
    const Row row = row_of(a, b, index);
    const bool reads_h = row.flags & layout::READ_H;
    const auto range = row.noisy ? (reads_h ? row_range<true, true, Place> : row_range<true, false, Place>)
                                 : (reads_h ? row_range<false, true, Place> : row_range<false, false, Place>);
    return range(row, place_of(a, b * a.numel + first, row.flags & layout::GUIDE), first, last);
}

void run_row(const RowArgs &a, std::int64_t b, std::int64_t first, std::int64_t last) {
    const std::int32_t index = a.cursor[b * a.cursor_stride];
    if (index < 0) return;
    constexpr std::int32_t WIDE = layout::READ_H2 | layout::READ_H3 | layout::STORE_H2 | layout::STORE_H3 |
                                  layout::PASTE | METHODS;
    const std::int32_t flags = a.code[index * std::int64_t{layout::NUM_CODE} + layout::FLAGS] & a.served;
    const bool second = a.noises == 2 && a.coef[index * std::int64_t{layout::NUM_COEF} + layout::S2] != 0;
    const bool wide = flags & WIDE || second;
    const bool finite = wide ? run_wide(a, b, index, first, last) : run_narrow(a, b, index, first, last);
    if (!finite) {  // an atomic minimum: another thread may run another range of this sample
        std::int32_t *p = a.first_bad + b, old = __atomic_load_n(p, __ATOMIC_RELAXED);
        while (index < old && !__atomic_compare_exchange_n(p, &old, index, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        }
    }
}
