// Matrix times vector, block types.

#include "matvec.cuh"

MATVEC(q8_0, kQ8_0)
MATVEC(q4_0, kQ4_0)
MATVEC(q4_1, kQ4_1)
MATVEC(q5_0, kQ5_0)
MATVEC(q5_1, kQ5_1)
MATVEC(q4_k, kQ4_K)
MATVEC(q5_k, kQ5_K)
MATVEC(q6_k, kQ6_K)
MATVEC(mixed, kMixed)
