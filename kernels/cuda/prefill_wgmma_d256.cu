// Prefill attention on Hopper, head dimension 256.
#include "prefill_wgmma.cuh"

PREFILL_WGMMA_KERNELS(256)
