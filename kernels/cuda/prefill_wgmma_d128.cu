// Prefill attention on Hopper, head dimension 128.
#include "prefill_wgmma.cuh"

PREFILL_WGMMA_KERNELS(128)
