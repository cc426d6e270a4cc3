#!/usr/bin/env bash
# Builds, checks and times the CUDA kernels. Needs nvcc 13 (in PATH, or named by NVCC); check and bench need a GPU of
# compute capability 9.0, the only one that the harness is built for.
#
#   run.sh build [nvcc flags...]                  kernels and harness
#   run.sh check [quick] [exact]                  against the f64 oracle; fails if anything is off
#   run.sh bench [brief] [plain] [tokens...]      times 32/8 and 32/4 heads, after a quick check
#   run.sh bench grid [tokens...]                 the same, many shapes
#   run.sh fatbin                                 every kernel for every architecture, one compressed fatbin per source
#
# OUT   where results go; default target/cuda under the repository root
# DIMS  "all" (default), or 128: head dimension 128 alone, for quick builds and sanitizers
# JOBS  compilers at a time; default one per core
set -euo pipefail

harness=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cuda=$(dirname "$harness")
root=$(cd "$cuda/../.." && pwd)
out=${OUT:-$root/target/cuda}
dims=${DIMS:-all}
jobs=${JOBS:-$(nproc)}
nvcc=${NVCC:-nvcc}
language=(-std=c++17 -O3)

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

case $dims in
    all) binary=$out/harness kernel_dims=(64 96 128 256) only=() ;;
    128) binary=$out/harness-d128 kernel_dims=(128) only=(-DONLY_D128) ;;
    *) fail "DIMS is \"all\" or \"128\", not \"$dims\"" ;;
esac

need_nvcc() {
    command -v "$nvcc" > /dev/null || fail "no CUDA compiler: put nvcc into PATH or set NVCC"
}

# object DIRECTORY SOURCE [flags...]: one object file beside the compiler's log, which is shown if it fails.
object() {
    local directory=$1 source=$2 stem
    shift 2
    stem=$directory/$(basename "$source" .cu)
    "$nvcc" "${language[@]}" "$@" -c "$source" -o "$stem.o" > "$stem.log" 2>&1 || {
        cat "$stem.log" >&2
        fail "$source does not compile"
    }
}

# fatbin_of SOURCE [flags...]
fatbin_of() {
    local source=$1
    shift
    "$nvcc" "${language[@]}" "$@" --fatbin -Xfatbin -compress-all "$source" -o "$out/$(basename "$source" .cu).fatbin"
}

# Runs a function of this script for every source of standard input (NUL-separated); {} stands for the source.
for_each_source() {
    xargs -0 -P "$jobs" -I{} "$BASH" "$harness/run.sh" "$@"
}

build() {
    need_nvcc
    local objects=$binary.o sources=() files=() source dim
    mkdir -p "$objects"
    for dim in "${kernel_dims[@]}"; do sources+=("$cuda/attend_d$dim.cu" "$cuda/reuse_d$dim.cu"); done
    sources+=("$cuda/ring_ops.cu" "$harness/check.cu" "$harness/bench.cu" "$harness/main.cu")
    for source in "${sources[@]}"; do files+=("$objects/$(basename "$source" .cu).o"); done
    local target=("-gencode=arch=compute_90a,code=sm_90a")
    printf '%s\0' "${sources[@]}" | for_each_source object "$objects" {} "${target[@]}" "${only[@]}" "$@"
    "$nvcc" "${target[@]}" "${files[@]}" -o "$binary"
}

# Rebuilds unless the harness is newer than every source.
build_if_stale() {
    if [[ ! -x $binary || -n $(find "$cuda" -name '*.[ch]*' -newer "$binary" -print -quit) ]]; then build -Xptxas -v; fi
}

check() {
    build_if_stale
    "$binary" check "$@"
}

bench() {
    build_if_stale
    "$binary" check quick > "$binary.check.txt" || fail "the check failed, nothing was timed; see $binary.check.txt"
    "$binary" bench "$@"
}

fatbin() {
    need_nvcc
    mkdir -p "$out"
    local sm targets=("-gencode=arch=compute_90a,code=sm_90a" "-gencode=arch=compute_80,code=compute_80")
    for sm in 80 86 89 100 120; do targets+=("-gencode=arch=compute_$sm,code=sm_$sm"); done
    printf '%s\0' "$cuda"/*.cu | for_each_source fatbin_of {} "${targets[@]}"
    ls -l "$out"/*.fatbin
}

command=${1:-}
case $command in
    build | check | bench | fatbin | object | fatbin_of)
        shift
        "$command" "$@"
        ;;
    *) fail "build, check, bench or fatbin? See the head of this file" ;;
esac
