// Attention over every token, head dimension 256.
#include "attend.cuh"

ATTEND_KERNELS(256)
