# CMake toolchain file for 64-bit ARM Linux, any ARMv8-A processor.
#
# On the board itself it changes nothing but the processor's flags. On another machine it takes Debian's cross compiler,
# looks for headers and libraries in the sysroot alone, and lets ctest run the tests under qemu.
#
#   devices/runtime/cross/sysroot.sh
#   cmake -S devices/runtime -B build/aarch64/runtime -G Ninja -DEDGESKIN_TESTS=ON \
#         -DCMAKE_TOOLCHAIN_FILE=devices/runtime/cmake/aarch64-linux-gnu.cmake
#
# EDGESKIN_SYSROOT   folder that stands for the board's /: what sysroot.sh made (default), or a copy of a board's own
# EDGESKIN_QEMU_CPU  processor that qemu plays. Not `max`: it has SVE, with which OpenVINO's INT8 answers wrongly.
# OpenVINO_DIR       default: the package that sysroot.sh put beside the sysroot

set(EDGESKIN_ARM_FLAGS "-march=armv8-a" CACHE STRING "the processor that the code is for")
set(CMAKE_C_FLAGS_INIT "${EDGESKIN_ARM_FLAGS}")
set(CMAKE_CXX_FLAGS_INIT "${EDGESKIN_ARM_FLAGS}")

if(NOT CMAKE_HOST_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(CMAKE_SYSTEM_NAME Linux)
    set(CMAKE_SYSTEM_PROCESSOR aarch64)
    set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

    find_program(EDGESKIN_CROSS_CC aarch64-linux-gnu-gcc)
    find_program(EDGESKIN_CROSS_CXX aarch64-linux-gnu-g++)
    if(NOT EDGESKIN_CROSS_CC OR NOT EDGESKIN_CROSS_CXX)
        message(FATAL_ERROR "no cross compiler; got: no aarch64-linux-gnu-g++ in PATH; fix: apt-get install "
            "g++-aarch64-linux-gnu, or compile on the board")
    endif()
    set(CMAKE_C_COMPILER "${EDGESKIN_CROSS_CC}")
    set(CMAKE_CXX_COMPILER "${EDGESKIN_CROSS_CXX}")

    get_filename_component(_made "${CMAKE_CURRENT_LIST_DIR}/../../../build/aarch64/sysroot" ABSOLUTE)
    set(EDGESKIN_SYSROOT "${_made}" CACHE PATH "folder that stands for the board's /")
    if(NOT IS_ABSOLUTE "${EDGESKIN_SYSROOT}" OR NOT EXISTS "${EDGESKIN_SYSROOT}/usr/lib")
        message(FATAL_ERROR "EDGESKIN_SYSROOT is no sysroot; got: ${EDGESKIN_SYSROOT}; possible: an absolute path of a "
            "folder with usr/lib; fix: run cross/sysroot.sh, or copy a board's / there")
    endif()
    set(CMAKE_SYSROOT "${EDGESKIN_SYSROOT}")
    get_filename_component(_openvino "${EDGESKIN_SYSROOT}/../openvino/cmake" ABSOLUTE)
    if(EXISTS "${_openvino}")
        set(OpenVINO_DIR "${_openvino}" CACHE PATH "the cmake folder of an OpenVINO for aarch64")
    endif()

    # Programs of this machine, all else of the board's: a header found here would belong to another processor. Engines
    # may lie outside the sysroot, where the caller says.
    set(CMAKE_FIND_ROOT_PATH "${EDGESKIN_SYSROOT}")
    if(OpenVINO_DIR)
        get_filename_component(_openvino "${OpenVINO_DIR}/.." ABSOLUTE)
        list(APPEND CMAKE_FIND_ROOT_PATH "${_openvino}")
    endif()
    foreach(_engine ONNXRUNTIME TENSORRT CUDA)
        if(${_engine}_INCLUDE_DIR)
            list(APPEND CMAKE_FIND_ROOT_PATH "${${_engine}_INCLUDE_DIR}")
        endif()
    endforeach()
    set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
    set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
    set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
    set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
    set(ENV{PKG_CONFIG_SYSROOT_DIR} "${EDGESKIN_SYSROOT}")
    set(ENV{PKG_CONFIG_LIBDIR}
        "${EDGESKIN_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${EDGESKIN_SYSROOT}/usr/share/pkgconfig")

    set(EDGESKIN_QEMU_CPU cortex-a76 CACHE STRING "processor that qemu plays when tests run")
    find_program(EDGESKIN_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
    if(EDGESKIN_QEMU)
        set(CMAKE_CROSSCOMPILING_EMULATOR "${EDGESKIN_QEMU};-cpu;${EDGESKIN_QEMU_CPU};-L;${EDGESKIN_SYSROOT}")
    endif()

    # The small projects with which CMake tries the compiler read this file too, without the cache.
    list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EDGESKIN_ARM_FLAGS EDGESKIN_SYSROOT EDGESKIN_QEMU_CPU OpenVINO_DIR)
endif()
