// Match, amend and complete, head dimension 128.
#include "reuse.cuh"

REUSE_KERNELS(128)
