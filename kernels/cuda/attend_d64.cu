// Attention over every token, head dimension 64.
#include "attend.cuh"

ATTEND_KERNELS(64)
