// Match, amend and complete, head dimension 96.
#include "reuse.cuh"

REUSE_KERNELS(96)
