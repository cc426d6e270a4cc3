// Attention over every token, head dimension 128.
#include "attend.cuh"

ATTEND_KERNELS(128)
