// Prefill attention on Hopper, head dimension 96.
#include "prefill_wgmma.cuh"

PREFILL_WGMMA_KERNELS(96)
