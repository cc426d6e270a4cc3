// Match, amend and complete, head dimension 64.
#include "reuse.cuh"

REUSE_KERNELS(64)
