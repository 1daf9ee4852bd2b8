# CMake toolchain file for the Raspberry Pi with a 64-bit system, natively or crossed: see aarch64-linux-gnu.cmake.
#
# Tuned for Cortex-A76, the processor of Raspberry Pi 5 and Compute Module 5; the instructions are those of ARMv8-A, so
# that the same library starts on a Raspberry Pi 4.
set(EDGESKIN_ARM_FLAGS "-march=armv8-a -mtune=cortex-a76" CACHE STRING "the processor that the code is for")
include("${CMAKE_CURRENT_LIST_DIR}/aarch64-linux-gnu.cmake")
