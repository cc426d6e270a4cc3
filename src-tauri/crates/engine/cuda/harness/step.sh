#!/usr/bin/env bash
# Builds, checks and times the kernels of the decode step (all but gemm*). Needs nvcc 13 (in PATH, or named by NVCC); check and
# bench need a GPU of compute capability 9.0.
#
#   step.sh build [nvcc flags...]
#   step.sh check [quick | chains]   against f64; fails if anything is off
#   step.sh bench [brief | steps]    after a quick check
#
# OUT   where results go; default target/cuda-step under the repository root
set -euo pipefail

harness=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cuda=$(dirname "$harness")
root=$(cd "$cuda/../../../.." && pwd)
shared=$root/kernels/cuda
out=${OUT:-$root/target/cuda-step}
nvcc=${NVCC:-nvcc}
binary=$out/step

compile() {
    "$nvcc" -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I"$shared" "$@"
}

build() {
    command -v "$nvcc" > /dev/null || { echo "step.sh: no CUDA compiler: put nvcc into PATH or set NVCC" >&2; exit 1; }
    mkdir -p "$out"
    local source object objects=()
    for source in "$cuda"/*.cu "$harness"/step_*.cu; do
        case $(basename "$source") in gemm*) continue ;; esac
        object=$out/$(basename "$source" .cu).o
        objects+=("$object")
        # Headers are few: anything newer rebuilds everything.
        if [[ ! -e $object || -n $(find "$cuda" "$harness" "$shared"/{copy,kv_pack}.cuh \( -name '*.cuh' -o -name 'step*.h' -o -wholename "$source" \) -newer "$object" -print -quit) ]]; then
            compile "$@" -c "$source" -o "$object"
        fi
    done
    compile -cudart static -cudadevrt none "${objects[@]}" -o "$binary"
}

build_if_stale() {
    if [[ ! -x $binary || -n $(find "$cuda" "$shared"/{copy,kv_pack}.cuh -name '*.[ch]*' -newer "$binary" -print -quit) ]]; then build; fi
}

command=${1:-}
case $command in
    build)
        shift
        build "$@"
        ;;
    check)
        build_if_stale
        shift
        "$binary" check "$@"
        ;;
    bench)
        build_if_stale
        shift
        "$binary" check quick
        "$binary" bench "$@"
        ;;
    *)
        echo "step.sh: build, check or bench? See the head of this file" >&2
        exit 1
        ;;
esac
