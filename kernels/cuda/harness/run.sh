#!/usr/bin/env bash
# Builds, checks and times the CUDA kernels. Needs nvcc 13 (in PATH, or named by NVCC); check and bench need a GPU of
# compute capability 9.0, the only one that the harness is built for.
#
#   run.sh build [nvcc flags...]                  kernels and harness
#   run.sh check [quick | tiny] [exact] [reuse] [formats] [TYPE...] [dims...]   against the f64 oracle; fails if anything is off
#   run.sh bench [brief] [plain] [TYPE...] [tokens...]         times 32/8 and 32/4 heads, after a quick check
#                                                 TYPE of K and V: bf16, f16, fp8, q8; all are checked, bf16 is timed
#   run.sh errors                                 what 8 bits cost attention
#   run.sh bench grid [tokens...]                 the same, many shapes
#   run.sh bench rates [tokens...]                hit rates from none to all against exact attention, as CSV
#   run.sh spills                                 fails if a decode kernel uses local memory on any architecture
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
architectures=(80 86 89 90a 100 120)

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
    sources+=("$cuda/ring_ops.cu" "$cuda/expand_kv.cu")
    sources+=("$harness"/check_{exact,reuse,formats}.cu "$harness"/{format_errors,bench,main}.cu)
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

errors() {
    build_if_stale
    "$binary" errors
}

bench() {
    build_if_stale
    "$binary" check quick > "$binary.check.txt" || fail "the check failed, nothing was timed; see $binary.check.txt"
    "$binary" bench "$@"
}

# spills_of SM SOURCE: names the functions with a stack frame or spills, with ptxas's line about each.
spills_of() {
    local sm=$1 source=$2 log=$out/spills.$1.$(basename "$2" .cu).log bad
    "$nvcc" "${language[@]}" "-gencode=arch=compute_$sm,code=sm_$sm" -Xptxas -v --cubin -o "${log%.log}.cubin" "$source" > "$log" 2>&1 || {
        cat "$log" >&2
        fail "$source does not compile for sm_$sm"
    }
    bad=$(awk -v sm="$sm" '/Function properties for/ { name = $NF }
        /bytes stack frame/ && !/ 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads/ { print "sm_" sm " " name ":" $0 }' "$log")
    if [[ -n $bad ]]; then
        echo "$bad"
        return 1
    fi
}

spills() {
    need_nvcc
    mkdir -p "$out"
    local sm clean=yes
    for sm in "${architectures[@]}"; do
        printf '%s\0' "$cuda"/{attend,reuse}_*.cu "$cuda/ring_ops.cu" "$cuda/expand_kv.cu" | for_each_source spills_of "$sm" {} || clean=no
    done
    [[ $clean == yes ]] || fail "local memory is used"
    echo "spills: none on sm_${architectures[*]}"
}

fatbin() {
    need_nvcc
    mkdir -p "$out"
    local sm targets=("-gencode=arch=compute_80,code=compute_80")
    for sm in "${architectures[@]}"; do targets+=("-gencode=arch=compute_$sm,code=sm_$sm"); done
    printf '%s\0' "$cuda"/*.cu | for_each_source fatbin_of {} "${targets[@]}"
    ls -l "$out"/*.fatbin
}

command=${1:-}
case $command in
    build | check | bench | errors | spills | fatbin | object | fatbin_of | spills_of)
        shift
        "$command" "$@"
        ;;
    *) fail "build, check, bench, spills or fatbin? See the head of this file" ;;
esac
