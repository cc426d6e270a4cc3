// Prefill attention, head dimension 256.
#include "prefill.cuh"

PREFILL_KERNELS(256)
