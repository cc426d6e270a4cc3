// Match, amend and complete, head dimension 256.
#include "reuse.cuh"

REUSE_KERNELS(256)
