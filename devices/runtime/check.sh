#!/usr/bin/env bash
# The tests of libedgeskin under sanitizers and valgrind, and its fuzzers for a while.
#
#   check.sh [address] [thread] [valgrind] [fuzz]      # all of them without an argument
#
# OPENVINO_DIR: the cmake folder of an OpenVINO; without it that of the Python package is asked for.
# FUZZ_SECONDS: for each fuzzer, 60. BUILD: where to build, build/runtime-check at the project's root.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=${BUILD:-$root/build/runtime-check}
seconds=${FUZZ_SECONDS:-60}
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(address thread valgrind fuzz)

if [ -z "${OPENVINO_DIR:-}" ]; then
    python=python3
    [ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python
    OPENVINO_DIR=$("$python" -c 'import importlib.util as u, pathlib
s = u.find_spec("openvino")
print(pathlib.Path(s.submodule_search_locations[0]) / "cmake" if s else "")')
fi
if [ ! -d "$OPENVINO_DIR" ]; then
    echo "no OpenVINO for the tests; got: '$OPENVINO_DIR'; fix: pip install openvino, or set OPENVINO_DIR" >&2
    exit 2
fi
libraries=$(cd "$OPENVINO_DIR/../libs" && pwd)
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)

need() {
    command -v "$1" >/dev/null && return
    echo "missing $1; fix: apt-get install $2" >&2
    exit 2
}

# configure NAME OPTIONS...: a build folder of its own for every kind
configure() {
    local folder=$build/$1 told
    shift
    mkdir -p "$build"
    if ! told=$(cmake -S "$here" -B "$folder" "${generator[@]}" -DOpenVINO_DIR="$OPENVINO_DIR" \
        -DEDGESKIN_EXAMPLES=OFF "$@" 2>&1); then
        echo "$told" >&2
        return 1
    fi
}

compile() { # NAME TARGET...: what a compiler says is shown where it fails
    local folder=$build/$1 told
    shift
    if ! told=$(cmake --build "$folder" --parallel 2 "${@/#/--target=}" 2>&1); then
        tail -n 40 <<<"$told" >&2
        return 1
    fi
}

tests() { # FOLDER FILTER: the engine's own threads and kernels are not built with the sanitizer
    EDGESKIN_TEST_OPENVINO_LIBRARIES=$libraries TBB_ENABLE_SANITIZERS=1 "$build/$1/tests/edgeskin_tests" \
        --gtest_brief=1 --gtest_filter="$2"
}

address() {
    configure address -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1" -DEDGESKIN_TESTS=ON \
        -DEDGESKIN_SANITIZE=address,undefined && compile address edgeskin_tests &&
        ASAN_OPTIONS=detect_leaks=1 tests address "-Opened.*" &&
        ASAN_OPTIONS=detect_leaks=0 tests address "Opened.*" # the engine's threads outlive the leak check: see valgrind
}

thread() {
    configure thread -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1" -DEDGESKIN_TESTS=ON \
        -DEDGESKIN_SANITIZE=thread && compile thread edgeskin_tests &&
        TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1" tests thread "Api.*:Opened.*:Trust*:Prepare*"
}

valgrind_() {
    need valgrind valgrind
    configure plain -DCMAKE_BUILD_TYPE=RelWithDebInfo -DEDGESKIN_TESTS=ON &&
        compile plain edgeskin_tests || return 1
    local memcheck=(valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite
        --show-leak-kinds=definite --suppressions="$here/tests/valgrind.supp")
    # Kernels that an engine generates read what they never use: with it, leaks and wild accesses alone are looked for.
    EDGESKIN_TEST_FP32=1 EDGESKIN_TEST_OPENVINO_LIBRARIES=$libraries "${memcheck[@]}" --undef-value-errors=no "$build/plain/tests/edgeskin_tests" \
        --gtest_brief=1 --gtest_filter="Opened.ItsLife*:Opened.Prob*:Opened.AFailed*:Opened.AGraph*:Opened.Tamper*" &&
        "${memcheck[@]}" "$build/plain/tests/edgeskin_tests" --gtest_brief=1 --gtest_filter="-Opened.*:*Flip*"
}

fuzz() {
    local compiler
    compiler=$(command -v clang++ || command -v clang++-14) || need clang++ "clang libclang-rt-14-dev"
    configure fuzz -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_C_COMPILER="${compiler/++/}" \
        -DEDGESKIN_FUZZ=ON && compile fuzz fuzz_manifest fuzz_bundle fuzz_image || return 1
    local running=() name corpus dictionary state=0
    for name in fuzz_manifest fuzz_bundle fuzz_image; do
        corpus=$build/fuzz/corpus-$name
        mkdir -p "$corpus"
        dictionary=()
        [ -f "$here/fuzz/$name.dict" ] && dictionary=(-dict="$here/fuzz/$name.dict")
        (cd "$build/fuzz" && exec "$build/fuzz/tests/$name" "${dictionary[@]}" -max_total_time="$seconds" -timeout=20 \
            -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$build/fuzz/$name-" "$corpus" \
            "$here/fuzz/seeds/$name" >"$build/fuzz/$name.log" 2>&1) &
        running+=("$!:$name")
    done
    for name in "${running[@]}"; do
        if wait "${name%%:*}"; then
            echo "${name#*:}: $(sed -n 's/^stat::number_of_executed_units: *//p' "$build/fuzz/${name#*:}.log") inputs in $seconds s, no crash"
        else
            state=1
            tail -n 40 "$build/fuzz/${name#*:}.log" >&2
        fi
    done
    return $state
}

need cmake cmake
failed=()
for step in "${steps[@]}"; do
    from=$SECONDS
    case $step in
    address | thread | fuzz) run=$step ;;
    valgrind) run=valgrind_ ;;
    *)
        echo "unknown check; got: $step; possible: address, thread, valgrind, fuzz" >&2
        exit 2
        ;;
    esac
    if $run; then state=ok; else state=FAILED && failed+=("$step"); fi
    echo "-- $step: $state in $((SECONDS - from)) s"
done
[ ${#failed[@]} -eq 0 ]
