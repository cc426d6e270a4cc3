#!/usr/bin/env bash
# Fetches NVIDIA's CUDA compiler into the build folder, where the kernels' build script looks for it. No driver, no GPU
# and no installed toolkit are needed. About 100 MB to fetch, 270 MB on disk.
#
#   nvcc.sh [FOLDER]   default: nvcc/ in cargo's target folder
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup_tools

# One release of the toolkit; nvcc runs cicc (nvvm), and its headers come in the other three.
wheels=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85
)

folder=${1:-$(target_dir)/nvcc}
nvcc=$folder/nvidia/cu13/bin/nvcc
stamp=$folder/complete

if [ "$(cat "$stamp" 2>/dev/null || true)" != "${wheels[*]}" ]; then
    python3 -m pip --version >/dev/null 2>&1 || die "Python 3 with pip is missing; it fetches the CUDA compiler."
    say "fetching the CUDA compiler into $folder"
    rm -rf "$folder"
    # As a variable, because a pip older than 22.1 (Ubuntu 22.04 has 22.0) refuses the option.
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps \
        --only-binary=:all: --target "$folder" "${wheels[@]}"
    "$nvcc" --version >/dev/null
    printf '%s\n' "${wheels[*]}" >"$stamp"
    # Builds made without a compiler are to notice it.
    touch kernels/build.rs src-tauri/crates/engine/build.rs
fi
printf '%s\n' "$nvcc"
