// Matrix times vector, block types.

#include "matvec.cuh"

namespace {

// A block's type is its part's.
__device__ void matvec_any(const MatvecArgs& args, const MatvecPart& part) {
    switch (part.type) {
        case kQ8_0: return matvec<kQ8_0>(args, part);
        case kQ4_0: return matvec<kQ4_0>(args, part);
        case kQ4_1: return matvec<kQ4_1>(args, part);
        case kQ5_0: return matvec<kQ5_0>(args, part);
        case kQ5_1: return matvec<kQ5_1>(args, part);
        case kQ4_K: return matvec<kQ4_K>(args, part);
        case kQ5_K: return matvec<kQ5_K>(args, part);
        case kQ6_K: return matvec<kQ6_K>(args, part);
        default: __trap();
    }
}

}  // namespace

MATVEC(q8_0, matvec<kQ8_0>)
MATVEC(q4_0, matvec<kQ4_0>)
MATVEC(q4_1, matvec<kQ4_1>)
MATVEC(q5_0, matvec<kQ5_0>)
MATVEC(q5_1, matvec<kQ5_1>)
MATVEC(q4_k, matvec<kQ4_K>)
MATVEC(q5_k, matvec<kQ5_K>)
MATVEC(q6_k, matvec<kQ6_K>)
MATVEC(mixed, matvec_any)
