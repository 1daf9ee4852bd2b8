#!/bin/bash
# Fetches the C header of ONNX Runtime, which its Python package lacks, where the system has no libonnxruntime-dev:
#
#   devices/runtime/cmake/onnxruntime-headers.sh [FOLDER]      default: build/onnxruntime at the project's root
#   cmake -S devices/runtime -B build/runtime -DONNXRUNTIME_INCLUDE_DIR=$PWD/build/onnxruntime/include
#
# It is Debian's package libonnxruntime-dev of SUITE (trixie), from this machine's own mirror, its signature checked by
# apt, which works in a folder of its own: nothing of this machine's packages changes, and no root is needed. The header
# of one version serves every younger library. APT_SOURCES=FILE: a sources.list that has the package, for other systems.
set -euo pipefail

package=libonnxruntime-dev
suite=${SUITE:-trixie}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)

fail() { # what, got, fix: one line
    echo "onnxruntime-headers.sh: $1; got: $2; fix: $3" >&2
    exit 1
}

[ $# -le 1 ] && [[ ${1:-} != -* ]] || fail "one folder at most" "$*" "onnxruntime-headers.sh [FOLDER]"
for tool in apt-get dpkg-deb flock; do
    command -v "$tool" >/dev/null || fail "this needs $tool" "none in PATH" \
        "take onnxruntime_c_api.h from a release of ONNX Runtime and pass -DONNXRUNTIME_INCLUDE_DIR=FOLDER"
done
mkdir -p "${1:-$root/build/onnxruntime}"
out=$(cd "${1:-$root/build/onnxruntime}" && pwd)
exec 9>"$out/.lock"
flock 9 # two builds at once fetch it once
if [ ! -f "$out/include/onnxruntime_c_api.h" ]; then
    work=$(mktemp -d "$out/.new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/deb"
    : >"$work/status"
    if [ -n "${APT_SOURCES:-}" ]; then
        cp -- "$APT_SOURCES" "$work/sources.list"
    else
        mirror=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
            awk '$1 == "Debian" && $2 == "Debian" && $3 == "main" { print $4; exit }')
        [ -n "$mirror" ] || fail "no Debian mirror is known here" "apt's lists" \
            "apt-get install $package where there is one, else apt-get update or APT_SOURCES=FILE"
        keys=/usr/share/keyrings/debian-archive-keyring.gpg
        echo "deb [signed-by=$keys] $mirror $suite main" >"$work/sources.list"
    fi
    cat >"$work/conf" <<CONF
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "$work";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Dir::Log "$work";
CONF
    { apt-get -c "$work/conf" -q update && cd "$work/deb" && apt-get -c "$work/conf" -q download $package; } \
        >"$work/log" 2>&1 || fail "$package of $suite cannot be fetched" \
        "$({ grep -m 1 '^E:' "$work/log" || tail -n 1 "$work/log"; } | tr -d '\r')" \
        "check the network and apt's mirror; another one: APT_SOURCES=FILE"
    dpkg-deb -x "$work"/deb/*.deb "$work/unpacked"
    [ -f "$work/unpacked/usr/include/onnxruntime/onnxruntime_c_api.h" ] ||
        fail "$package has no onnxruntime_c_api.h" "$(ls "$work/deb")" "another SUITE=..., or APT_SOURCES=FILE"
    rm -rf "$out/include"
    mv "$work/unpacked/usr/include/onnxruntime" "$out/include"
fi
echo "onnxruntime_c_api.h: $out/include (interface" \
    "$(sed -n 's/^#define ORT_API_VERSION \([0-9]*\).*/\1/p' "$out/include/onnxruntime_c_api.h"))"
