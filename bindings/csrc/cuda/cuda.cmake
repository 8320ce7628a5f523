# restart_bindings._native_cuda: the fused row and the normals as CUDA C++, built where there is an nvcc.
# Needs from CMakeLists.txt: CSRC, RESTART_GENERATED, RESTART_OUTPUT, the target restart_scheme, nanobind.

# The bits depend on these flags. -fmad=false: a contracted product would be rounded once instead of twice.
set(RESTART_CUDA_FLAGS -O3 -fmad=false -ftz=false -prec-div=true -prec-sqrt=true)
# Machine code for these, where nvcc knows them, and PTX of the newest one for later GPUs.
set(RESTART_CUDA_ARCHITECTURES 80 90 100)
option(RESTART_CUDA_RESOURCES "let ptxas print registers and spills of every kernel" OFF)

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(STATUS "restart-sampling: no working nvcc, so no native CUDA backend; on CUDA, triton does the work")
  return()
endif()
enable_language(CUDA)
find_package(CUDAToolkit)

execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-code OUTPUT_VARIABLE known ERROR_QUIET)
set(architectures "")
foreach(architecture ${RESTART_CUDA_ARCHITECTURES})
  if(known MATCHES "sm_${architecture}[^0-9]")
    list(APPEND architectures ${architecture})
  endif()
endforeach()
if(NOT architectures OR CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 11.8 OR NOT TARGET CUDA::cudart_static)
  message(STATUS "restart-sampling: nvcc ${CMAKE_CUDA_COMPILER_VERSION} is not 11.8 or newer with a static runtime, "
                 "so no native CUDA backend; on CUDA, triton does the work")
  return()
endif()
list(GET architectures -1 newest)
list(TRANSFORM architectures APPEND "-real" OUTPUT_VARIABLE real)
list(JOIN architectures ", sm_" targets)
message(STATUS "restart-sampling: native CUDA backend with nvcc ${CMAKE_CUDA_COMPILER_VERSION} "
               "for sm_${targets} and PTX of compute_${newest}")

add_library(restart_cuda STATIC ${CSRC}/cuda/gpu.cu)
add_dependencies(restart_cuda restart_scheme)
target_include_directories(restart_cuda PUBLIC "${CSRC}" "${RESTART_GENERATED}")
target_compile_options(restart_cuda PRIVATE ${RESTART_CUDA_FLAGS} --threads=0)
if(RESTART_CUDA_RESOURCES)
  target_compile_options(restart_cuda PRIVATE -Xptxas=-v)
endif()
set_target_properties(restart_cuda PROPERTIES
  CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_VISIBILITY_PRESET hidden
  CUDA_ARCHITECTURES "${real};${newest}-virtual")
# The static runtime: torch brings a CUDA of its own, and the two then share only the driver.
target_link_libraries(restart_cuda PUBLIC CUDA::cudart_static)

nanobind_add_module(_native_cuda NB_STATIC NOMINSIZE NB_SUPPRESS_WARNINGS ${CSRC}/cuda/module.cpp)
target_link_libraries(_native_cuda PRIVATE restart_cuda)
set_target_properties(_native_cuda PROPERTIES
  LINKER_LANGUAGE CXX LIBRARY_OUTPUT_DIRECTORY "${RESTART_OUTPUT}")
