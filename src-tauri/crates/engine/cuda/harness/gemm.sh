#!/usr/bin/env bash
# Builds, checks and times the matrix products of prefill. Needs nvcc 13 (in PATH, or named by NVCC); check and bench need a GPU of
# compute capability 9.0.
#
#   gemm.sh build [nvcc flags...]
#   gemm.sh check [quick]           against f64
#   gemm.sh bench [m]               a quick check first; beside cuBLASLt, where there is one
#
# OUT                where results go; default target/cuda under the repository root
# REPRISE_CUBLASLT   file of cuBLASLt; default what the system's loader finds
set -euo pipefail

harness=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cuda=$(dirname "$harness")
out=${OUT:-$(cd "$cuda/../../../.." && pwd)/target/cuda}
nvcc=${NVCC:-nvcc}
binary=$out/gemm_harness

build() {
    mkdir -p "$out"
    "$nvcc" -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -cudart static -cudadevrt none -Xptxas -v "$@" \
        "$cuda"/gemm_*.cu "$harness"/gemm_*.cu -ldl -o "$binary" > "$binary.log" 2>&1 || { cat "$binary.log" >&2 && exit 1; }
    # What ptxas calls a loss is a kernel several times slower, and it is no warning to nvcc.
    if grep -E 'serialized|[1-9][0-9]* bytes spill' "$binary.log" >&2; then
        rm "$binary"
        exit 1
    fi
}

build_if_stale() {
    if [[ ! -x $binary || -n $(find "$cuda" -name 'gemm*.[ch]*' -newer "$binary" -print -quit) ]]; then build; fi
}

command=${1:-}
case $command in
    build) shift && build "$@" ;;
    check) shift && build_if_stale && "$binary" check "$@" ;;
    bench) shift && build_if_stale && "$binary" check quick && "$binary" bench "$@" ;;
    *)
        echo "gemm.sh: build, check or bench? See the head of this file" >&2
        exit 1
        ;;
esac
