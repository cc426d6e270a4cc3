// Prefill attention, head dimension 96.
#include "prefill.cuh"

PREFILL_KERNELS(96)
