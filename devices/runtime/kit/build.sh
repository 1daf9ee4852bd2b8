#!/bin/sh
# Builds this firmware: checks what is needed, compiles, and lays all of it out in image/, as it will lie on the device.
#
#   PREFIX=/opt/edgeskin      where it will lie there
#   OpenVINO_DIR, ONNXRUNTIME_INCLUDE_DIR, TENSORRT_INCLUDE_DIR, CUDA_INCLUDE_DIR   where an engine's headers are
#   EDGESKIN_BACKEND_PATH     folder of the engine's libraries on the device; empty: where its system looks
#   EDGESKIN_SYSROOT          a copy of the board's /, to build on another kind of machine
#   PYTHON=python3            which may have the package openvino
#   JOBS=2                    compilers at once
set -eu
cd "$(dirname "$0")"
here=$PWD

arch={{arch}}
engines="{{engines}}"
toolchain=runtime/cmake/{{toolchain}}
budget={{budget}}
prefix=${PREFIX:-/opt/edgeskin}

fail() { # what, got, fix: one line
    echo "build.sh: $1; got: $2; fix: $3" >&2
    exit 2
}

has() { command -v "$1" >/dev/null 2>&1; }

case $prefix in
    /*) ;;
    *) fail "PREFIX is no absolute path" "$prefix" "PREFIX=/opt/edgeskin" ;;
esac

# --- Here or for another machine --------------------------------------------------------------------------------------
host=$(uname -m)
[ "$host" = arm64 ] && host=aarch64
sysroot=
if [ "$host" != "$arch" ]; then
    [ "$arch" = aarch64 ] || fail "this firmware is for $arch" "$host here" "build it on a machine with $arch"
    sysroot=${EDGESKIN_SYSROOT:-}
    { [ -n "$sysroot" ] && [ -d "$sysroot/usr/include" ]; } || fail "this firmware is for $arch" \
        "$host here, and no sysroot" "build it on the board, or EDGESKIN_SYSROOT=/absolute/path/of/a/copy/of/its/root"
    compiler=aarch64-linux-gnu-g++
    # CUDA lies where links lead that mean the board's own root.
    cuda=$sysroot/usr/local/cuda/include
    [ -n "${CUDA_INCLUDE_DIR:-}" ] || [ ! -d "$cuda" ] || CUDA_INCLUDE_DIR=$cuda
else
    compiler=${CXX:-c++}
fi

# --- What must be installed -------------------------------------------------------------------------------------------
has_header() {
    if [ -n "$sysroot" ]; then
        [ -f "$sysroot/usr/include/$1" ] || [ -f "$sysroot/usr/include/aarch64-linux-gnu/$1" ]
    else
        echo "#include <$1>" | "$compiler" -x c++ -E - >/dev/null 2>&1
    fi
}

packages=
has cmake || packages="$packages cmake"
has ninja || has make || packages="$packages ninja-build"
if has "$compiler"; then
    has_header sodium.h || packages="$packages libsodium-dev"
    has_header libyuv.h || packages="$packages libyuv-dev"
    has_header nlohmann/json.hpp || packages="$packages nlohmann-json3-dev"
elif [ -n "$sysroot" ]; then
    packages="$packages g++-aarch64-linux-gnu"
else
    packages="$packages g++ libsodium-dev libyuv-dev nlohmann-json3-dev"
fi
[ -z "$packages" ] || fail "something is missing" "no$packages" \
    "${sysroot:+here, or libraries in the sysroot: }sudo apt-get install$packages"

# --- The engine's headers ---------------------------------------------------------------------------------------------
OpenVINO_DIR=${OpenVINO_DIR:-}
backend=${EDGESKIN_BACKEND_PATH:-}
if [ -z "$OpenVINO_DIR" ] && [ -z "$sysroot" ]; then
    find_it='from importlib.util import find_spec as f; print(*(f("openvino").submodule_search_locations))'
    for python in ${PYTHON:-} ${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} python3; do # looked for, not imported
        found=$("$python" -c "$find_it" 2>/dev/null) || found=
        if [ -f "$found/cmake/OpenVINOConfig.cmake" ]; then
            OpenVINO_DIR=$found/cmake
            break
        fi
    done
fi
[ -z "$OpenVINO_DIR" ] || [ -d "$OpenVINO_DIR" ] || fail "OpenVINO_DIR is no folder" "$OpenVINO_DIR" \
    "OpenVINO_DIR=.../openvino/cmake"

engine_is_here() {
    case $1 in
        openvino) [ -f "$OpenVINO_DIR/../include/openvino/c/openvino.h" ] || has_header openvino/c/openvino.h ;;
        onnxruntime)
            [ -f "${ONNXRUNTIME_INCLUDE_DIR:-}/onnxruntime_c_api.h" ] || has_header onnxruntime_c_api.h ||
                has_header onnxruntime/onnxruntime_c_api.h || has_header onnxruntime/core/session/onnxruntime_c_api.h
            ;;
        tensorrt)
            { [ -f "${TENSORRT_INCLUDE_DIR:-}/NvInfer.h" ] || has_header NvInfer.h; } &&
                { [ -f "${CUDA_INCLUDE_DIR:-$sysroot/usr/local/cuda/include}/cuda_runtime_api.h" ] ||
                    has_header cuda_runtime_api.h; }
            ;;
    esac
}

cure() {
    case $1 in
        openvino) echo "pip install openvino, and PYTHON=/path/to/its/python or OpenVINO_DIR=.../openvino/cmake" ;;
        onnxruntime) echo "unpack ONNX Runtime's release for $arch, and ONNXRUNTIME_INCLUDE_DIR=.../include" ;;
        tensorrt) echo "sudo apt-get install nvidia-jetpack, or TENSORRT_INCLUDE_DIR=... CUDA_INCLUDE_DIR=..." ;;
    esac
}

usable=
for engine in $engines; do
    if engine_is_here "$engine"; then
        usable="$usable $engine"
    else
        echo "build.sh: without $engine: no headers; to have it: $(cure "$engine")" >&2
    fi
done
[ -n "$usable" ] || fail "no engine that this bundle may use" "no headers of ${engines% *}" "$(cure "${engines%% *}")"
case " $usable " in
    *" openvino "*)
        # The package's libraries are at the same place on the device only if it is this machine.
        libraries=$(cd "$OpenVINO_DIR/../libs" 2>/dev/null && pwd) || libraries=
        if [ -z "$backend" ] && [ -z "$sysroot" ]; then backend=$libraries; fi
        ;;
esac

# --- Compile and lay out ----------------------------------------------------------------------------------------------
set -- -S . -B build -DCMAKE_INSTALL_PREFIX="$prefix" -DEDGESKIN_BACKEND_PATH="$backend" -DOpenVINO_DIR="$OpenVINO_DIR"
[ -f build/CMakeCache.txt ] || { has ninja && set -- "$@" -G Ninja; } || :
if [ "$arch" = aarch64 ]; then
    set -- "$@" -DCMAKE_TOOLCHAIN_FILE="$here/$toolchain"
    [ -z "$sysroot" ] || set -- "$@" -DEDGESKIN_SYSROOT="$sysroot"
    # An older compiler may not know the processor by its name, and needs none.
    if ! echo 'int x;' | "$compiler" -mtune=cortex-a78ae -x c++ -fsyntax-only - 2>/dev/null; then
        set -- "$@" -DEDGESKIN_ARM_FLAGS=-march=armv8-a
    fi
fi
for name in ONNXRUNTIME_INCLUDE_DIR TENSORRT_INCLUDE_DIR CUDA_INCLUDE_DIR; do
    eval "value=\${$name:-}"
    [ -z "$value" ] || set -- "$@" "-D$name=$value"
done
cmake "$@" >build.log 2>&1 || fail "cmake refuses" \
    "$(grep -m 1 -A 2 -E 'CMake Error|missing' build.log | tr -s '\n ' ' ')" "see build.log"
cmake --build build --parallel "${JOBS:-2}" >>build.log 2>&1 || fail "it does not compile" \
    "$(grep -m 1 -E 'error|undefined' build.log || echo 'an error')" "see build.log"
rm -rf image
DESTDIR=$here/image cmake --install build --strip >>build.log 2>&1 || fail "it cannot be laid out" "see build.log" \
    "free space, or check the rights of this folder"

# --- What came of it --------------------------------------------------------------------------------------------------
laid=$here/image$prefix
library=$(find "$laid/lib" -name 'libedgeskin.so.*' -type f)
size=$(wc -c <"$library")
echo "engines compiled in:$usable"
echo "library, stripped:  $size bytes, of $budget allowed"
for program in camera classify update; do
    echo "edgeskin-$program: $(wc -c <"$laid/bin/edgeskin-$program") bytes"
done
echo "bundle:             $(find "$laid/share/edgeskin/bundle" -type f -exec cat {} + | wc -c) bytes"
[ "$size" -le "$budget" ] || fail "the library is above its budget" "$size bytes" "a Release build, or find what grew"
if [ -z "$sysroot" ]; then
    set -- "$laid/bin/edgeskin-classify" ${backend:+--backend-path "$backend"} "$laid/share/edgeskin/bundle"
    if told=$("$@" 2>&1); then
        echo "$told" | grep '^self-test'
    else
        echo "build.sh: not tested on this machine: $told" >&2
    fi
fi
echo "ready: $here/image, to be copied to / of the device; README.md tells how"
