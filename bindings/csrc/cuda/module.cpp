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
               nb::handle seeds, nb::handle first_bad, nb::handle c_noise)
      : keep_(nb::make_tuple(x, h, net_in, coef, code, cursor, seeds, first_bad, c_noise)) {
    const Tensor registers = tensor(x, "x", Dtype::float32, -1, CUDA);
    device_ = registers.device_id;
    const Tensor keys = here(seeds, "seeds", Dtype::int64, -1);
    const Tensor net = here(net_in, "net_in", Dtype::other, -1);
    const Tensor rows = here(coef, "coef", Dtype::float32, -1);
    const Tensor at = here(cursor, "cursor", Dtype::int32, -1);
    elements_ = registers.numel;
    row_.guided = elements_ && net.numel == 2 * elements_;
    row_.batch = keys.numel;
    row_.numel = row_.batch ? elements_ / row_.batch : 0;
    const int64_t table = rows.numel / layout::NUM_COEF;
    if (elements_ != row_.batch * row_.numel) throw nb::type_error("x does not hold one sample per seed");
    if (!row_.guided && net.numel != elements_)
      throw nb::type_error("net_in has neither x's number of elements nor twice that");
    if (rows.numel != table * layout::NUM_COEF) throw nb::type_error("coef has the wrong number of columns");
    if (at.numel != 1 && at.numel != row_.batch)
      throw nb::type_error("cursor has neither one entry nor one for each sample");

    row_.x = static_cast<float*>(registers.data);
    row_.h = static_cast<float*>(here(h, "h", Dtype::float32, elements_).data);
    row_.net_in = net.data;
    row_.net_dtype = row_.F_dtype = float_type(net, "net_in");
    row_.coef = static_cast<const float*>(rows.data);
    row_.code = static_cast<const int32_t*>(here(code, "code", Dtype::int32, table * layout::NUM_CODE).data);
    row_.cursor = static_cast<int32_t*>(at.data);
    row_.rows = static_cast<int32_t>(table);
    row_.cursor_stride = at.numel == 1 ? 0 : 1;
    row_.seeds = static_cast<const int64_t*>(keys.data);
    row_.first_bad = static_cast<int32_t*>(here(first_bad, "first_bad", Dtype::int32, row_.batch).data);
    float* noise = c_noise.is_none() ? nullptr
                                     : static_cast<float*>(here(c_noise, "c_noise", Dtype::float32, at.numel).data);
    advance_ = {row_.coef, row_.code, row_.cursor, noise, 1, 4 * at.numel, row_.rows};
  }

  void run_row(nb::handle F, nb::handle F_uncond, uint64_t stream) {
    RowArgs args = row_;
    if (!F.is_none()) {
      const Tensor output = here(F, "F", Dtype::other, elements_);
      args.F = output.data;
      args.F_dtype = float_type(output, "F");
      if (!F_uncond.is_none()) args.F_uncond = here(F_uncond, "F_uncond", output.dtype, elements_).data;
      if (row_.guided == F_uncond.is_none())
        throw nb::type_error("F_uncond and twice the size of x in net_in go together");
    }
    launch(args, device_, stream_of(stream));
  }

  void advance(uint64_t stream) { launch(advance_, device_, stream_of(stream)); }

 private:
  Tensor here(nb::handle object, const char* name, Dtype dtype, int64_t numel) const {
    const Tensor t = tensor(object, name, dtype, numel, CUDA);
    if (t.device_id != device_) throw nb::type_error((std::string(name) + " is not on the device of x").c_str());
    return t;
  }

  RowArgs row_{};
  AdvanceArgs advance_{};
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
  // The exported names are older than those of the sources, so that a library that was built before still loads.
  nb::class_<BoundMachine>(m, "Step")
      .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle,
                    nb::handle>(),
           nb::arg("x"), nb::arg("h"), nb::arg("net_in"), nb::arg("coef"), nb::arg("code"), nb::arg("cursor"),
           nb::arg("seeds"), nb::arg("first_bad"), nb::arg("c_noise").none() = nb::none())
      .def("step", &BoundMachine::run_row, nb::arg("F").none(), nb::arg("F_uncond").none(), nb::arg("stream"))
      .def("advance", &BoundMachine::advance, nb::arg("stream"));
  m.def("normal", &fill_normal, nb::arg("out"), nb::arg("seeds"), nb::arg("draw"), nb::arg("stream_id"),
        nb::arg("cuda_stream"));
}

}  // namespace restart::cuda
