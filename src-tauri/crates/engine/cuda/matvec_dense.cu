// Matrix times vector, dense weights.

#include "matvec.cuh"

MATVEC(f32, kF32)
MATVEC(f16, kF16)
MATVEC(bf16, kBf16)
