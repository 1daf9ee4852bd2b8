# CMake toolchain file for NVIDIA's Jetsons, natively or crossed: see aarch64-linux-gnu.cmake.
#
# Tuned for Cortex-A78AE, the processor of all Orin modules; the instructions are those of ARMv8.2-A, which Xavier and
# Thor have too, so that one library serves them all. With a copy of a Jetson's / as EDGESKIN_SYSROOT, TensorRT's and
# CUDA's headers are found there.
set(EDGESKIN_ARM_FLAGS "-march=armv8.2-a -mtune=cortex-a78ae" CACHE STRING "the processor that the code is for")
include("${CMAKE_CURRENT_LIST_DIR}/aarch64-linux-gnu.cmake")
