// Matrix times vector, dense weights.

#include "matvec.cuh"

MATVEC(f32, matvec<kF32>)
MATVEC(f16, matvec<kF16>)
MATVEC(bf16, matvec<kBf16>)
