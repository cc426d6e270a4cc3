// cuBLASLt beside the kernels, found at run time: the product alone, C f32 or bf16, with or without what C holds.
#pragma once

#include <memory>

#include "gemm_device.h"

// False, with a word on stdout, where there is no library. REPRISE_CUBLASLT names a file; else the loader looks.
bool lt_open();
// As 10000 major + 100 minor + patch.
size_t lt_version();

// One size with an algorithm for it.
class LtProduct {
  public:
    // `args` gives sizes and strides; W has as many rows as C has columns. `index`: place in cuBLASLt's list, best guess first.
    // Null where that list is shorter.
    static std::unique_ptr<LtProduct> find(Dtype dtype, bool bf16_out, bool add, const GemmArgs& args, int index);
    void launch(const GemmArgs& args, cudaStream_t stream) const;
    size_t workspace_bytes() const { return workspace_used; }
    ~LtProduct();

  private:
    void *desc = nullptr, *a = nullptr, *w = nullptr, *c = nullptr;
    bool add = false;
    size_t workspace_used = 0;
    uint64_t algorithm[8] = {};
};
