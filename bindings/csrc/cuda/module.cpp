// restart_bindings._native_cuda. Checks its arguments before it launches, by the rules of restart_kernels/machine.py.
#include <cstdint>
#include <string>

#include "gpu.h"
#include "tensor.h"

namespace restart::cuda {
namespace {

constexpr int32_t CUDA = 2;  // DLPack's number for a CUDA device

Float float_type(const Tensor& t, const char* name) {
  if (!is_float(t.dtype)) throw nb::type_error((std::string(name) + " is not float32, bfloat16 or float16").c_str());
  return t.dtype == Dtype::float32 ? Float::float32 : t.dtype == Dtype::bfloat16 ? Float::bfloat16 : Float::float16;
}

CUstream_st* stream_of(uint64_t address) { return reinterpret_cast<CUstream_st*>(static_cast<uintptr_t>(address)); }

// A machine of restart_kernels: its addresses are read once, a call is one launch.
class BoundMachine {
 public:
  BoundMachine(nb::handle x, nb::handle h, nb::handle net_in, nb::handle coef, nb::handle code, nb::handle cursor,
               nb::handle seeds, nb::handle first_bad, nb::handle c_noise, nb::handle h2, nb::handle h3,
               nb::handle known, nb::handle mask, nb::handle mix, int32_t noises)
      : keep_(nb::make_tuple(x, h, net_in, coef, code, cursor, seeds, first_bad, c_noise, h2, h3, known, mask, mix)) {
    const Tensor registers = tensor(x, "x", Dtype::float32, -1, CUDA);
    device_ = registers.device_id;
    const Tensor keys = here(seeds, "seeds", Dtype::int64, -1);
    const Tensor net = here(net_in, "net_in", Dtype::other, -1);
    const Tensor rows = here(coef, "coef", Dtype::float32, -1);
    const Tensor at = here(cursor, "cursor", Dtype::int32, -1);
    elements_ = registers.numel;
    row_.halves = elements_ && net.numel == 2 * elements_ ? 2 : 1;
    row_.batch = keys.numel;
    row_.numel = row_.batch ? elements_ / row_.batch : 0;
    const int64_t table = rows.numel / layout::NUM_COEF;
    if (elements_ != row_.batch * row_.numel) throw nb::type_error("x does not hold one sample per seed");
    if (net.numel != row_.halves * elements_)
      throw nb::type_error("net_in has neither x's number of elements nor twice that");
    if (rows.numel != table * layout::NUM_COEF) throw nb::type_error("coef has the wrong number of columns");
    if (at.numel != 1 && at.numel != row_.batch)
      throw nb::type_error("cursor has neither one entry nor one for each sample");

    row_.x = static_cast<float*>(registers.data);
    row_.h = optional(h, "h", elements_);
    row_.h2 = optional(h2, "h2", elements_);
    row_.h3 = optional(h3, "h3", elements_);
    row_.known = optional(known, "known", elements_);
    row_.mask = optional(mask, "mask", elements_);
    row_.mix = mix_ = optional(mix, "mix", 2 * row_.batch);
    row_.noises = noises;
    check_together(row_);
    weighs_ = !mix.is_none();
    row_.net_in = net.data;
    row_.net_dtype = row_.F_dtype = float_type(net, "net_in");
    row_.coef = static_cast<const float*>(rows.data);
    row_.code = static_cast<const int32_t*>(here(code, "code", Dtype::int32, table * layout::NUM_CODE).data);
    row_.cursor = static_cast<int32_t*>(at.data);
    row_.rows = static_cast<int32_t>(table);
    row_.cursor_stride = at.numel == 1 ? 0 : 1;
    row_.seeds = static_cast<const int64_t*>(keys.data);
    row_.first_bad = static_cast<int32_t*>(here(first_bad, "first_bad", Dtype::int32, row_.batch).data);
    advance_ = {row_.coef, row_.code, row_.cursor, nullptr, 1, 4 * at.numel, row_.rows};
    if (!c_noise.is_none()) {
      const Tensor given = here(c_noise, "c_noise", Dtype::float32, -1);
      if (given.numel != at.numel && given.numel != 2 * at.numel)
        throw nb::type_error("c_noise has neither as many entries as cursor nor twice as many");
      advance_.c_noise = static_cast<float*>(given.data);
      if (given.numel == 2 * at.numel) advance_.c_noise_2 = advance_.c_noise + at.numel;
    }
  }

  void run_row(nb::handle F, nb::handle F_uncond, uint64_t stream) {
    RowArgs args = row_;
    if (!F.is_none()) set_output(args, F, F_uncond);
    launch(args, device_, stream_of(stream));
  }

  void weigh(nb::handle F, nb::handle F_uncond, uint64_t stream) {
    RowArgs a = row_;
    set_output(a, F, F_uncond);
    if (!weighs_) throw nb::type_error("this machine has no mix to write the weights to");
    if (F_uncond.is_none()) throw nb::type_error("F_uncond is missing: the weights are those of two outputs");
    const WeighArgs args{mix_,    a.F,     a.F_uncond, a.coef,          a.code,   a.cursor,
                         a.batch, a.numel, a.rows,     a.cursor_stride, a.F_dtype};
    launch(args, device_, stream_of(stream));
  }

  void advance(uint64_t stream) { launch(advance_, device_, stream_of(stream)); }

 private:
  Tensor here(nb::handle object, const char* name, Dtype dtype, int64_t numel) const {
    const Tensor t = tensor(object, name, dtype, numel, CUDA);
    if (t.device_id != device_) throw nb::type_error((std::string(name) + " is not on the device of x").c_str());
    return t;
  }

  // The address of a float32 tensor, null if it is None.
  float* optional(nb::handle object, const char* name, int64_t numel) const {
    return object.is_none() ? nullptr : static_cast<float*>(here(object, name, Dtype::float32, numel).data);
  }

  void set_output(RowArgs& args, nb::handle F, nb::handle F_uncond) const {
    const Tensor output = here(F, "F", Dtype::other, elements_);
    args.F = output.data;
    args.F_dtype = float_type(output, "F");
    if (F_uncond.is_none()) return;
    args.F_uncond = here(F_uncond, "F_uncond", output.dtype, elements_).data;
    if (elements_ && args.halves != 2) throw nb::type_error("F_uncond needs a net_in of twice the size of x");
  }

  RowArgs row_{};
  AdvanceArgs advance_{};
  float* mix_ = nullptr;
  bool weighs_ = false;
  int64_t elements_ = 0;
  int device_ = 0;
  nb::tuple keep_;
};

void fill_normal(nb::handle out, nb::handle seeds, uint32_t draw, uint32_t stream_id, uint64_t cuda_stream) {
  const Tensor o = tensor(out, "out", Dtype::float32, -1, CUDA), keys = tensor(seeds, "seeds", Dtype::int64, -1, CUDA);
  const int64_t numel = keys.numel ? o.numel / keys.numel : 0;
  if (o.numel != keys.numel * numel) throw nb::type_error("out does not hold one sample per seed");
  if (o.device_id != keys.device_id) throw nb::type_error("seeds is not on the device of out");
  const NormalArgs args{static_cast<float*>(o.data), static_cast<const int64_t*>(keys.data), draw, stream_id,
                        keys.numel,                  numel};
  launch(args, o.device_id, stream_of(cuda_stream));
}

}  // namespace

NB_MODULE(_native_cuda, m) {
  nb::set_leak_warnings(false);  // a sampler in a global variable lives to the end
  nb::class_<BoundMachine>(m, "BoundMachine")
      .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle,
                    nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, int32_t>(),
           nb::arg("x"), nb::arg("h").none(), nb::arg("net_in"), nb::arg("coef"), nb::arg("code"), nb::arg("cursor"),
           nb::arg("seeds"), nb::arg("first_bad"), nb::arg("c_noise").none() = nb::none(), nb::kw_only(),
           nb::arg("h2").none() = nb::none(), nb::arg("h3").none() = nb::none(), nb::arg("known").none() = nb::none(),
           nb::arg("mask").none() = nb::none(), nb::arg("mix").none() = nb::none(), nb::arg("noises") = 1)
      .def("run_row", &BoundMachine::run_row, nb::arg("F").none(), nb::arg("F_uncond").none(), nb::arg("stream"))
      .def("weigh", &BoundMachine::weigh, nb::arg("F"), nb::arg("F_uncond"), nb::arg("stream"))
      .def("advance", &BoundMachine::advance, nb::arg("stream"));
  m.def("normal", &fill_normal, nb::arg("out"), nb::arg("seeds"), nb::arg("draw"), nb::arg("stream_id"),
        nb::arg("cuda_stream"));
}

}  // namespace restart::cuda
