// The weights of two outputs by their five sums. Mirrors `mixed` in restart_kernels/row/weights.py, which states the
// formulas, operation by operation. Written once for the CPU, the GPU and the host twin: a file that includes this has
// defined
//   RESTART_WEIGHTS                what a function is declared as
//   divide(a, b), square_root(a)   correctly rounded

struct Sums {
    float cc, uu, cu, sc, su;
};

struct Weights {
    float c, u;
};

RESTART_WEIGHTS float at_least_0(float v) { return v < 0.0f ? 0.0f : v; }  // NaN stays NaN

// W, P and Q are columns of the row, n is the number of elements.
RESTART_WEIGHTS Weights weights(const Sums &s, float W, float P, float Q, std::int32_t flags, float n) {
    const float V = 1.0f - W;
    if (flags & layout::RESCALE) {
        const float v_c = s.cc - divide(s.sc * s.sc, n), v_u = s.uu - divide(s.su * s.su, n);
        const float v_cu = s.cu - divide(s.sc * s.su, n);
        const float v = ((W * W) * v_c + (V * V) * v_u) + (2.0f * (W * V)) * v_cu;
        const float r = v > 0.0f ? square_root(divide(at_least_0(v_c), v)) : 1.0f;
        const float f = P * r + (1.0f - P);
        return {f * W, f * V};
    }
    if (flags & layout::ZERO_STAR) {
        const float star = s.uu > 0.0f ? divide(s.cu, s.uu) : 0.0f;
        return {W, star * V};
    }
    const float d = square_root(at_least_0((s.cc - 2.0f * s.cu) + s.uu));
    const float k = Q > 0.0f && d > Q ? divide(Q, d) : 1.0f;
    const float p = s.cc > 0.0f ? k * divide(s.cc - s.cu, s.cc) : 0.0f;
    return {1.0f - V * (k - (1.0f - P) * p), V * k};
}
