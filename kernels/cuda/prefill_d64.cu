// Prefill attention, head dimension 64.
#include "prefill.cuh"

PREFILL_KERNELS(64)
