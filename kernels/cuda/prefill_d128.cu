// Prefill attention, head dimension 128.
#include "prefill.cuh"

PREFILL_KERNELS(128)
