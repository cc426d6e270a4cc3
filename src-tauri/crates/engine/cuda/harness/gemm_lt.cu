#include "gemm_lt.h"

#include <dlfcn.h>

namespace {

// cublasLt.h, as far as it is needed; the same in versions 12 and 13. Opaque types are pointers.
enum { kComputeF32 = 68, kRealF32 = 0, kRealF16 = 2, kRealBf16 = 14, kTransposed = 1 };
enum { kDescTransA = 3, kPreferenceWorkspace = 1 };
struct Heuristic {
    uint64_t algorithm[8];
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
};
static_assert(sizeof(Heuristic) == 96);

struct Library {
    size_t (*version)();
    int (*create)(void** handle);
    int (*desc)(void** desc, int compute, int scale);
    int (*desc_set)(void* desc, int attribute, const void* value, size_t bytes);
    int (*desc_destroy)(void* desc);
    int (*layout)(void** layout, int type, uint64_t rows, uint64_t columns, int64_t stride);
    int (*layout_destroy)(void* layout);
    int (*preference)(void** preference);
    int (*preference_set)(void* preference, int attribute, const void* value, size_t bytes);
    int (*preference_destroy)(void* preference);
    int (*heuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference, int wanted, Heuristic* found, int* count);
    int (*matmul)(void* handle, void* desc, const void* alpha, const void* a, void* layout_a, const void* b, void* layout_b, const void* beta, const void* c,
                  void* layout_c, void* d, void* layout_d, const void* algorithm, void* workspace, size_t workspace_bytes, cudaStream_t stream);
} lib;
void* handle = nullptr;
void* scratch = nullptr;
constexpr size_t kScratchBytes = 32 << 20;

#define LT(call)                                                                                            \
    do {                                                                                                    \
        const int status = (call);                                                                          \
        if (status != 0) std::printf("%s:%d: %s: status %d\n", __FILE__, __LINE__, #call, status), std::exit(2); \
    } while (0)

}  // namespace

bool lt_open() {
    const char* named = std::getenv("REPRISE_CUBLASLT");
    void* library = named ? dlopen(named, RTLD_NOW) : nullptr;
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
        if (!library) library = dlopen(name, RTLD_NOW);
    }
    if (!library) {
        std::printf("no cuBLASLt: %s\n", dlerror());
        return false;
    }
    const auto symbol = [&](auto& function, const char* name) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
        if (!function) std::printf("no %s\n", name), std::exit(2);
    };
    symbol(lib.version, "cublasLtGetVersion");
    symbol(lib.create, "cublasLtCreate");
    symbol(lib.desc, "cublasLtMatmulDescCreate");
    symbol(lib.desc_set, "cublasLtMatmulDescSetAttribute");
    symbol(lib.desc_destroy, "cublasLtMatmulDescDestroy");
    symbol(lib.layout, "cublasLtMatrixLayoutCreate");
    symbol(lib.layout_destroy, "cublasLtMatrixLayoutDestroy");
    symbol(lib.preference, "cublasLtMatmulPreferenceCreate");
    symbol(lib.preference_set, "cublasLtMatmulPreferenceSetAttribute");
    symbol(lib.preference_destroy, "cublasLtMatmulPreferenceDestroy");
    symbol(lib.heuristic, "cublasLtMatmulAlgoGetHeuristic");
    symbol(lib.matmul, "cublasLtMatmul");
    LT(lib.create(&handle));
    CHECK(cudaMalloc(&scratch, kScratchBytes));
    return true;
}

size_t lt_version() { return lib.version(); }

std::unique_ptr<LtProduct> LtProduct::find(Dtype dtype, bool bf16_out, bool add, const GemmArgs& args, int index) {
    auto product = std::make_unique<LtProduct>();
    const int element = dtype == Dtype::bf16 ? kRealBf16 : kRealF16, transposed = kTransposed;
    // Its matrices are column-major: C transposed [n, m] = W (transposed as it lies) times A transposed.
    LT(lib.desc(&product->desc, kComputeF32, kRealF32));
    LT(lib.desc_set(product->desc, kDescTransA, &transposed, sizeof transposed));
    LT(lib.layout(&product->w, element, args.k, args.n, args.ldw));
    LT(lib.layout(&product->a, element, args.k, args.m, args.lda));
    LT(lib.layout(&product->c, bf16_out ? kRealBf16 : kRealF32, args.n, args.m, args.ldc));
    product->add = add;
    void* preference;
    LT(lib.preference(&preference));
    LT(lib.preference_set(preference, kPreferenceWorkspace, &kScratchBytes, sizeof kScratchBytes));
    Heuristic found[16];
    int count = 0;
    LT(lib.heuristic(handle, product->desc, product->w, product->a, product->c, product->c, preference, index + 1, found, &count));
    LT(lib.preference_destroy(preference));
    if (count <= index || found[index].status != 0) return nullptr;
    std::memcpy(product->algorithm, found[index].algorithm, sizeof product->algorithm);
    product->workspace_used = found[index].workspace;
    return product;
}

void LtProduct::launch(const GemmArgs& args, cudaStream_t stream) const {
    const float one = 1, beta = add ? 1 : 0;
    LT(lib.matmul(handle, desc, &one, args.w, w, args.a, a, &beta, args.c, c, args.c, c, algorithm, scratch, kScratchBytes, stream));
}

LtProduct::~LtProduct() {
    for (void* layout : {a, w, c}) {
        if (layout) lib.layout_destroy(layout);
    }
    if (desc) lib.desc_destroy(desc);
}
