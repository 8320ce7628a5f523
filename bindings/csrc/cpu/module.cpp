// restart_bindings._native_cpu. Checks its arguments before it touches memory, by the rules of
// restart_kernels/machine.py.
#include <algorithm>
#include <string>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "dispatch.h"
#include "machine.h"
#include "tensor.h"

namespace restart::cpu {
namespace {

constexpr std::int32_t CPU = 1;

Float float_type(const Tensor &t, const char *name) {
    if (!is_float(t.dtype)) throw nb::type_error((std::string(name) + " is not float32, bfloat16 or float16").c_str());
    return t.dtype == Dtype::float32 ? FLOAT32 : t.dtype == Dtype::bfloat16 ? BFLOAT16 : FLOAT16;
}

template <class T>
T *pointer(const Tensor &t) {
    return static_cast<T *>(t.data);
}

// Releases the GIL only for work that takes longer than waiting for a busy thread to give it back.
template <class Function>
void unlocked(std::int64_t elements, Function function) {
    if (elements < SERIAL) return function();
    nb::gil_scoped_release release;
    function();
}

// A machine of restart_kernels, its addresses read once. `threads` is called before each row that threads may share.
class BoundMachine {
public:
    BoundMachine(nb::handle x, nb::handle h, nb::handle net_in, nb::handle coef, nb::handle code, nb::handle cursor,
                 nb::handle seeds, nb::handle first_bad, nb::handle c_noise, nb::object threads, nb::handle h2,
                 nb::handle h3, nb::handle known, nb::handle mask, nb::handle mix, std::int32_t noises)
        : threads_(std::move(threads)),
          keep_(nb::make_tuple(x, h, net_in, coef, code, cursor, seeds, first_bad, c_noise, h2, h3, known, mask, mix)) {
        const Tensor X = tensor(x, "x", Dtype::float32, -1, CPU);
        const Tensor net = tensor(net_in, "net_in", Dtype::other, -1, CPU);
        const Tensor s = tensor(seeds, "seeds", Dtype::int64, -1, CPU);
        const Tensor rows = tensor(coef, "coef", Dtype::float32, -1, CPU);
        const Tensor at = tensor(cursor, "cursor", Dtype::int32, -1, CPU);
        a_.batch = s.numel;
        a_.numel = s.numel ? X.numel / s.numel : 0;
        a_.halves = X.numel && net.numel == 2 * X.numel ? 2 : 1;
        rows_ = rows.numel / layout::NUM_COEF;
        cursors_ = at.numel;
        if (X.numel != a_.batch * a_.numel) throw nb::type_error("x does not hold one sample per seed");
        if (net.numel != a_.halves * X.numel)
            throw nb::type_error("net_in has neither x's number of elements nor twice that");
        if (rows.numel != rows_ * layout::NUM_COEF) throw nb::type_error("coef has the wrong number of columns");
        if (at.numel != 1 && at.numel != a_.batch)
            throw nb::type_error("cursor has neither one entry nor one for each sample");
        a_.x = pointer<float>(X);
        a_.h = optional(h, "h", X.numel);
        a_.h2 = optional(h2, "h2", X.numel);
        a_.h3 = optional(h3, "h3", X.numel);
        a_.known = optional(known, "known", X.numel);
        a_.mask = optional(mask, "mask", X.numel);
        a_.mix = mix_ = optional(mix, "mix", 2 * a_.batch);
        weighs_ = !mix.is_none();
        a_.noises = noises;
        check_together(a_);
        a_.net_in = net.data;
        a_.net_type = float_type(net, "net_in");
        a_.coef = coef_ = pointer<float>(rows);
        a_.code = pointer<std::int32_t>(tensor(code, "code", Dtype::int32, rows_ * layout::NUM_CODE, CPU));
        a_.cursor = cursor_ = pointer<std::int32_t>(at);
        a_.cursor_stride = at.numel == 1 ? 0 : 1;
        a_.seeds = pointer<std::int64_t>(s);
        a_.first_bad = pointer<std::int32_t>(tensor(first_bad, "first_bad", Dtype::int32, a_.batch, CPU));
        if (!c_noise.is_none()) {
            const Tensor given = tensor(c_noise, "c_noise", Dtype::float32, -1, CPU);
            if (given.numel != cursors_ && given.numel != 2 * cursors_)
                throw nb::type_error("c_noise has neither as many entries as cursor nor twice as many");
            c_noise_ = pointer<float>(given);
            if (given.numel == 2 * cursors_) c_noise_2_ = c_noise_ + cursors_;
        }
    }

    void run_row(nb::handle F, nb::handle F_uncond) {
        RowArgs a = a_;
        if (!F.is_none()) set_output(a, F, F_uncond);
        a.served = served_flags(a);
        if (!look_up()) return;
        const std::int64_t elements = a.batch * a.numel;
        const int threads = elements < SERIAL ? 1 : nb::cast<int>(threads_());
        unlocked(elements, [&] { cpu::run_row(a, threads); });
    }

    void weigh(nb::handle F, nb::handle F_uncond) {
        RowArgs a = a_;
        set_output(a, F, F_uncond);
        if (!weighs_) throw nb::type_error("this machine has no mix to write the weights to");
        if (F_uncond.is_none()) throw nb::type_error("F_uncond is missing: the weights are those of two outputs");
        if (!look_up()) return;
        const WeighArgs w{mix_,    a.F,           a.F_uncond, a.F_type, a.coef, a.code,
                          a.cursor, a.cursor_stride, a.batch,    a.numel};
        const std::int64_t elements = a.batch * a.numel;
        const int threads = elements < SERIAL ? 1 : nb::cast<int>(threads_());
        unlocked(elements, [&] { cpu::weigh(w, threads); });
    }

    void advance() {
        look_up();
        for (std::int64_t b = 0; b < cursors_; ++b) {
            const std::int32_t row = cursor_[b];
            if (row < 0) continue;
            const float c_noise = coef_[row * std::int64_t{layout::NUM_COEF} + layout::C_NOISE];
            if (c_noise_) c_noise_[b] = c_noise;
            if (c_noise_2_) c_noise_2_[b] = c_noise;
            const std::int32_t flags = a_.code[row * std::int64_t{layout::NUM_CODE} + layout::FLAGS];
            cursor_[b] = flags & layout::END ? layout::IDLE : row + 1;
        }
    }

private:
    // Returns the address of a float32 tensor, null if it is None.
    static float *optional(nb::handle object, const char *name, std::int64_t numel) {
        return object.is_none() ? nullptr : pointer<float>(tensor(object, name, Dtype::float32, numel, CPU));
    }

    static void set_output(RowArgs &a, nb::handle F, nb::handle F_uncond) {
        const std::int64_t elements = a.batch * a.numel;
        const Tensor t = tensor(F, "F", Dtype::other, elements, CPU);
        a.F = t.data;
        a.F_type = float_type(t, "F");
        if (F_uncond.is_none()) return;
        a.F_uncond = tensor(F_uncond, "F_uncond", t.dtype, elements, CPU).data;
        if (elements && a.halves != 2) throw nb::type_error("F_uncond needs a net_in of twice the size of x");
    }

    // Returns whether any sample is live. A cursor beyond the table is an error before anything is read there.
    bool look_up() const {
        std::int32_t last = layout::IDLE;
        for (std::int64_t b = 0; b < cursors_; ++b) last = std::max(last, cursor_[b]);
        if (last >= rows_) {
            const std::string text = "cursor " + std::to_string(last) + " is beyond the table's " + std::to_string(rows_);
            throw nb::index_error((text + " rows").c_str());
        }
        return last >= 0;
    }

    RowArgs a_{};
    const float *coef_ = nullptr;
    std::int32_t *cursor_ = nullptr;
    float *c_noise_ = nullptr, *c_noise_2_ = nullptr, *mix_ = nullptr;  // the second for the other half of net_in
    bool weighs_ = false;
    std::int64_t rows_ = 0, cursors_ = 0;
    nb::object threads_;
    nb::tuple keep_;
};

void fill_normal(nb::handle out, nb::handle seeds, std::uint32_t draw, std::uint32_t stream, int threads) {
    const Tensor s = tensor(seeds, "seeds", Dtype::int64, -1, CPU);
    const Tensor o = tensor(out, "out", Dtype::float32, -1, CPU);
    const std::int64_t numel = s.numel ? o.numel / s.numel : 0;
    if (o.numel != s.numel * numel) throw nb::type_error("out does not hold one sample per seed");
    const NormalArgs a{pointer<float>(o), pointer<std::int64_t>(s), draw, stream, s.numel, numel};
    unlocked(o.numel, [&] { normal(a, threads); });
}

void run_triad(nb::handle a, nb::handle b, nb::handle c, float s, int threads) {
    const Tensor t = tensor(a, "a", Dtype::float32, -1, CPU);
    const TriadArgs args{
        pointer<float>(t),
        pointer<float>(tensor(b, "b", Dtype::float32, t.numel, CPU)),
        pointer<float>(tensor(c, "c", Dtype::float32, t.numel, CPU)),
        s,
        1,
        t.numel,
    };
    unlocked(t.numel, [&] { triad(args, threads); });
}

std::vector<std::string> simds() {
    std::vector<std::string> names;
    for (const char *name : {"avx512", "avx2", "portable"})
        if (find(name)) names.emplace_back(name);
    return names;
}

void set_simd(const std::string &name) {
    const Kernels *k = find(name.c_str());
    if (!k) throw nb::value_error(("no instruction set " + name + " here").c_str());
    choose(k);
}

}  // namespace

NB_MODULE(_native_cpu, m) {
    nb::set_leak_warnings(false);  // a sampler in a global variable lives to the end
    nb::class_<BoundMachine>(m, "BoundMachine")
        .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle,
                      nb::handle, nb::object, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle,
                      std::int32_t>(),
             nb::arg("x"), nb::arg("h").none(), nb::arg("net_in"), nb::arg("coef"), nb::arg("code"), nb::arg("cursor"),
             nb::arg("seeds"), nb::arg("first_bad"), nb::arg("c_noise").none(), nb::arg("threads"), nb::kw_only(),
             nb::arg("h2").none() = nb::none(), nb::arg("h3").none() = nb::none(),
             nb::arg("known").none() = nb::none(), nb::arg("mask").none() = nb::none(),
             nb::arg("mix").none() = nb::none(), nb::arg("noises") = 1)
        .def("run_row", &BoundMachine::run_row, nb::arg("F").none() = nb::none(),
             nb::arg("F_uncond").none() = nb::none())
        .def("weigh", &BoundMachine::weigh, nb::arg("F"), nb::arg("F_uncond"))
        .def("advance", &BoundMachine::advance);
    m.def("normal", &fill_normal, nb::arg("out"), nb::arg("seeds"), nb::arg("draw"), nb::arg("stream"),
          nb::arg("threads"));
    m.def("triad", &run_triad, nb::arg("a"), nb::arg("b"), nb::arg("c"), nb::arg("s"), nb::arg("threads"));
    m.def("simd", [] { return chosen()->name; });
    m.def("simds", &simds);
    m.def("set_simd", &set_simd, nb::arg("name"));
}

}  // namespace restart::cpu
