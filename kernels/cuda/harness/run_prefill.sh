#!/usr/bin/env bash
# Builds, checks and times the prefill kernels. Needs nvcc 13 (in PATH, or named by NVCC); check and bench need a GPU of compute
# capability 9.0, the only one that the harness is built for.
#
#   run_prefill.sh build [nvcc flags...]
#   run_prefill.sh check [quick] [name]     against the f64 oracle; fails if anything is off. name: part of "mma.sync bf16", "wgmma f16", ...
#   run_prefill.sh bench [brief] [name]
#   run_prefill.sh sanitize TOOL [name]     compute-sanitizer (memcheck, racecheck, synccheck) on the quick check
#   run_prefill.sh sdpa                     torch's scaled_dot_product_attention on the same shapes, for comparison
#
# OUT   where results go; default target/cuda under the repository root
# JOBS  compilers at a time; default one per core
set -euo pipefail

harness=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cuda=$(dirname "$harness")
root=$(cd "$cuda/../.." && pwd)
out=${OUT:-$root/target/cuda}
nvcc=${NVCC:-nvcc}
binary=$out/prefill
objects=$out/prefill.o
flags=(-std=c++17 -O3 "-gencode=arch=compute_90a,code=sm_90a" "-I$cuda")

fail() {
    echo "run_prefill.sh: $*" >&2
    exit 1
}

# object SOURCE [flags...]: one object file beside the compiler's log, which is shown if it fails.
object() {
    local source=$1 stem
    stem=$objects/$(basename "$source" .cu)
    shift
    "$nvcc" "${flags[@]}" -Xptxas -v "$@" -c "$source" -o "$stem.o" > "$stem.log" 2>&1 || {
        cat "$stem.log" >&2
        fail "$source does not compile"
    }
}

build() {
    command -v "$nvcc" > /dev/null || fail "no CUDA compiler: put nvcc into PATH or set NVCC"
    mkdir -p "$objects"
    rm -f "$objects"/*.o
    printf '%s\0' "$cuda"/prefill*.cu "$harness"/prefill*.cu | xargs -0 -P "${JOBS:-$(nproc)}" -I{} "$BASH" "$harness/run_prefill.sh" object {} "$@"
    "$nvcc" "${flags[@]}" "$objects"/*.o -o "$binary"
}

build_if_stale() {
    if [[ ! -x $binary || -n $(find "$cuda" -name '*.[ch]*' -newer "$binary" -print -quit) ]]; then build; fi
}

command=${1:-}
[[ $# -gt 0 ]] && shift
case $command in
    build | object) "$command" "$@" ;;
    check | bench)
        build_if_stale
        "$binary" "$command" "$@"
        ;;
    sanitize)
        build_if_stale
        tool=$1
        shift
        compute-sanitizer --tool "$tool" --error-exitcode 1 "$binary" check quick "$@"
        ;;
    sdpa) python3 "$harness/sdpa.py" "$@" ;;
    *) fail "build, check, bench, sanitize or sdpa? See the head of this file" ;;
esac
