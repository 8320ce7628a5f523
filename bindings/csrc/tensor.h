// A torch tensor seen from C++ without a torch header: address, size, dtype and device, through DLPack.
#pragma once

#include <cstdint>
#include <string>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace restart {

namespace nb = nanobind;

enum class Dtype : std::uint8_t { float32, bfloat16, float16, int32, int64, other };

struct Tensor {
    void *data = nullptr;
    std::int64_t numel = 0;
    Dtype dtype = Dtype::other;
    std::int32_t device_type = 0;  // 1 CPU, 2 CUDA
    std::int32_t device_id = 0;
    bool contiguous = false;
};

namespace detail {

inline Dtype dtype_of(const nb::dlpack::dtype &d) {
    using Code = nb::dlpack::dtype_code;
    if (d.lanes != 1) return Dtype::other;
    if (d.code == static_cast<std::uint8_t>(Code::Float))
        return d.bits == 32 ? Dtype::float32 : d.bits == 16 ? Dtype::float16 : Dtype::other;
    if (d.code == static_cast<std::uint8_t>(Code::Bfloat)) return d.bits == 16 ? Dtype::bfloat16 : Dtype::other;
    if (d.code == static_cast<std::uint8_t>(Code::Int))
        return d.bits == 32 ? Dtype::int32 : d.bits == 64 ? Dtype::int64 : Dtype::other;
    return Dtype::other;
}

inline Tensor describe(const nb::dlpack::dltensor &t) {
    Tensor out;
    out.data = static_cast<char *>(t.data) + t.byte_offset;
    out.dtype = dtype_of(t.dtype);
    out.device_type = t.device.device_type;
    out.device_id = t.device.device_id;
    out.numel = 1;
    out.contiguous = true;
    for (std::int32_t i = t.ndim - 1; i >= 0; --i) {
        if (t.strides && t.shape[i] != 1 && t.strides[i] != out.numel) out.contiguous = false;
        out.numel *= t.shape[i];
    }
    if (out.numel == 0) out.contiguous = true;
    return out;
}

// DLPack 1.3: a type may offer its functions in C, so that reading a tensor takes 0.1 µs. The method __dlpack__ of a
// torch tensor is Python and takes 7 µs, more than everything else in a small row.
struct ExchangeApi {
    std::uint32_t major, minor;
    void *previous, *unused[3];
    int (*read)(void *object, nb::dlpack::dltensor *out);
};

inline const ExchangeApi *exchange_api(PyTypeObject *type) {
    static PyTypeObject *last = nullptr;  // read and written under the GIL
    static const ExchangeApi *api = nullptr;
    if (type == last) return api;
    const ExchangeApi *found = nullptr;
    const nb::handle owner(reinterpret_cast<PyObject *>(type));
    nb::object capsule = nb::getattr(owner, "__dlpack_c_exchange_api__", nb::none());
    if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) {
        found = static_cast<const ExchangeApi *>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
        if (found->major != 1 || !found->read) found = nullptr;
    }
    Py_INCREF(type);  // so that no other type gets its address
    last = type;
    return api = found;
}

}  // namespace detail

// Returns the tensor behind a Python object. TypeError if the object is not a tensor.
inline Tensor tensor(nb::handle object, const char *name) {
    if (const detail::ExchangeApi *api = detail::exchange_api(Py_TYPE(object.ptr()))) {
        nb::dlpack::dltensor t;
        if (api->read(object.ptr(), &t) == 0) return detail::describe(t);
        throw nb::python_error();
    }
    nb::ndarray<> array;
    if (!nb::try_cast(object, array, false)) throw nb::type_error((std::string(name) + " is not a tensor").c_str());
    nb::dlpack::dltensor t;
    t.data = array.data();
    t.device = {array.device_type(), array.device_id()};
    t.ndim = static_cast<std::int32_t>(array.ndim());
    t.dtype = array.dtype();
    t.shape = const_cast<std::int64_t *>(array.shape_ptr());
    t.strides = const_cast<std::int64_t *>(array.stride_ptr());
    return detail::describe(t);
}

// The same, with a TypeError unless it has this `dtype` (other: any) and `numel` (negative: any), is contiguous, and is
// on `device_type`.
inline Tensor tensor(nb::handle object, const char *name, Dtype dtype, std::int64_t numel, std::int32_t device_type) {
    const Tensor t = tensor(object, name);
    const char *wrong = !t.contiguous                                ? " is not contiguous"
                        : t.device_type != device_type               ? " is on the wrong device"
                        : dtype != Dtype::other && t.dtype != dtype  ? " has the wrong dtype"
                        : numel >= 0 && t.numel != numel             ? " has the wrong number of elements"
                                                                     : nullptr;
    if (wrong) throw nb::type_error((std::string(name) + wrong).c_str());
    return t;
}

inline bool is_float(Dtype d) { return d == Dtype::float32 || d == Dtype::bfloat16 || d == Dtype::float16; }

}  // namespace restart
