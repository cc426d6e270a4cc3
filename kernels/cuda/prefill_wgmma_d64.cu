// Prefill attention on Hopper, head dimension 64.
#include "prefill_wgmma.cuh"

PREFILL_WGMMA_KERNELS(64)
