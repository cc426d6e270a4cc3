// Attention over every token, head dimension 96.
#include "attend.cuh"

ATTEND_KERNELS(96)
