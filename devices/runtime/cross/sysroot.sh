#!/bin/bash
# Gathers what libedgeskin needs to be compiled and run for 64-bit ARM on another machine: Debian's arm64 packages in a
# sysroot, and OpenVINO's aarch64 package of exactly the version that requirements/dev.txt pins, hash checked.
#
#   devices/runtime/cross/sysroot.sh [FOLDER]      default: build/aarch64 at the project's root
#
# makes FOLDER/sysroot and FOLDER/openvino, or leaves them alone where they are complete. Needs no root and changes
# nothing of this machine's packages: apt works in a folder of its own. Needs apt >= 2.1 and Python with pip.
# APT_SOURCES=FILE: a sources.list for arm64, where this machine's mirror has none. PYTHON=python3.
set -euo pipefail

packages=(libc6 libgcc-s1 libstdc++6 libatomic1 libyuv-dev libsodium-dev nlohmann-json3-dev libgtest-dev)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
lock=$root/requirements/dev.txt
python=${PYTHON:-$([ -x "$root/.venv/bin/python" ] && echo "$root/.venv/bin/python" || echo python3)}

fail() { # what, got, fix: one line
    echo "sysroot.sh: $1; got: $2; fix: $3" >&2
    exit 1
}

last() { # the line that says most: of apt and pip the first error, else the last line
    { grep -m 1 -E '^(E|ERROR)[: ]' "$1" || tail -n 1 "$1"; } | tr -d '\r'
}

[ $# -le 1 ] && [[ ${1:-} != -* ]] || fail "one folder at most" "$*" "sysroot.sh [FOLDER]"
for tool in apt-get dpkg-deb tar flock "$python"; do
    command -v "$tool" >/dev/null || fail "this needs $tool" "none in PATH" \
        "run it on Debian or a system derived from it, with Python (PYTHON=/path/to/python)"
done
mkdir -p "${1:-$root/build/aarch64}"
out=$(cd "${1:-$root/build/aarch64}" && pwd)
[[ $out != *[[:space:]]* ]] || fail "the folder's path may hold no space" "$out" "give another folder"
exec 9>"$out/.lock"
flock 9 # two builds at once make it once

pin=$(awk '/^openvino==/ { on = 1 } on { print } on && !/\\$/ { exit }' "$lock")
[ -n "$pin" ] || fail "no pinned openvino in the lock" "$lock" "make lock"
version=$(sed -n '1s/^openvino==\([^ ;]*\).*/\1/p' <<<"$pin")
work=$(mktemp -d "$out/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT

# --- Debian's packages ------------------------------------------------------------------------------------------------
wanted="${packages[*]}"
if [ "$(cat "$out/sysroot/.complete" 2>/dev/null)" != "$wanted" ]; then
    apt=$work/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    : >"$apt/status" # nothing is installed there: every dependency is fetched too
    cat >"$apt/conf" <<CONF
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Log "$apt";
CONF
    if [ -n "${APT_SOURCES:-}" ]; then
        [ -r "$APT_SOURCES" ] || fail "APT_SOURCES cannot be read" "$APT_SOURCES" "name a sources.list for arm64"
        printf 'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "/dev/null";\n' "$(realpath "$APT_SOURCES")" >>"$apt/conf"
    fi
    apt-get -c "$apt/conf" -q update >"$apt/log" 2>&1 || fail "the lists of arm64 packages cannot be fetched" \
        "$(last "$apt/log")" "check the network and apt's sources; another mirror: APT_SOURCES=FILE"
    apt-get -c "$apt/conf" -q -y --download-only install "${packages[@]}" >"$apt/log" 2>&1 || fail \
        "Debian's arm64 packages cannot be fetched" "$(last "$apt/log")" \
        "check the network; where the mirror has no arm64: APT_SOURCES=FILE with one that has"
    mkdir -p "$work/sysroot/usr/lib" "$work/sysroot/usr/bin" "$work/sysroot/usr/sbin"
    for merged in lib bin sbin; do ln -s "usr/$merged" "$work/sysroot/$merged"; done # packages write to both
    for deb in "$apt"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink --no-same-owner -C "$work/sysroot"
    done
    # Absolute links mean the board's root: make them stay inside.
    find "$work/sysroot" -type l -lname '/*' | while read -r link; do
        ln -sfnr "$work/sysroot$(readlink "$link")" "$link"
    done
    rm -rf "$work/sysroot"/usr/{share/doc,share/lintian,share/man,src}
    echo "$wanted" >"$work/sysroot/.complete"
    rm -rf "$out/sysroot"
    mv "$work/sysroot" "$out/sysroot"
fi

# --- OpenVINO ---------------------------------------------------------------------------------------------------------
if [ "$(cat "$out/openvino/.complete" 2>/dev/null)" != "$pin" ]; then
    echo "$pin" >"$work/openvino.txt"
    "$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary :all: --require-hashes \
        --implementation cp --python-version 3.11 --platform manylinux_2_35_aarch64 -d "$work/wheel" \
        -r "$work/openvino.txt" >"$work/log" 2>&1 || fail "OpenVINO $version for aarch64 cannot be fetched" \
        "$(last "$work/log")" "check the network and pip's index; a Python with pip: PYTHON=/path/to/python"
    "$python" -m zipfile -e "$work"/wheel/openvino-*.whl "$work/unpacked"
    echo "$pin" >"$work/unpacked/openvino/.complete"
    rm -rf "$out/openvino"
    mv "$work/unpacked/openvino" "$out/openvino"
fi

echo "sysroot: $out/sysroot ($(du -sm "$out/sysroot" | cut -f1) MB)"
echo "openvino $version: $out/openvino/libs, headers $out/openvino/include ($(du -sm "$out/openvino" | cut -f1) MB)"
