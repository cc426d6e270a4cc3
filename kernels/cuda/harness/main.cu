// check [quick | tiny] [exact] [reuse] [formats] [bf16] [f16] [fp8] [q8] [dims...]    every kernel against the oracle; the exit status
//                                      says whether it held
// bench [brief] [plain] [bf16] [fp8] [q8] [tokens...]    32/8 and 32/4 heads, head dimension 128, for each type of K and V (bf16)
// errors                               what 8 bits cost attention, on the host
// bench grid [tokens...]               many shapes, seven settings each
// bench rates [tokens...]              hit rates from none to all against exact, CSV
#include <cstdlib>
#include <cstring>

#include "bench.h"
#include "check.h"

int main(int argc, char** argv) {
    const auto has = [&](const char* word) {
        for (int i = 1; i < argc; ++i) {
            if (!std::strcmp(argv[i], word)) return true;
        }
        return false;
    };
    setvbuf(stdout, nullptr, _IOLBF, 0);
    if (has("errors")) {
        format_errors();
        return 0;
    }
    std::vector<Dtype> types;  // those named, or all
    for (Dtype type : {Dtype::bf16, Dtype::f16, Dtype::fp8, Dtype::q8}) {
        if (has(name_of(type))) types.push_back(type);
    }
    if (has("check")) {
        CheckScope scope{has("tiny") ? CheckSize::tiny : has("quick") ? CheckSize::quick : CheckSize::full, {}, types};
        if (types.empty()) scope.types = {Dtype::bf16, Dtype::f16, Dtype::fp8, Dtype::q8};
#ifdef ONLY_D128
        scope.dims = {128};
#else
        for (int i = 2; i < argc; ++i) {
            if (std::atoi(argv[i]) > 0) scope.dims.push_back(std::atoi(argv[i]));
        }
        if (scope.dims.empty()) scope.dims = {64, 96, 128, 256};
#endif
        const bool every = !has("exact") && !has("reuse") && !has("formats");
        int failures = 0;
        if (every || has("formats")) failures += check_formats();
        if (every || has("exact")) failures += check_exact(scope);
        if (every || has("reuse")) failures += check_reuse(scope);
        std::printf("check: %d failures\n", failures);
        return failures != 0;
    }
    BenchOptions options;
    for (int i = 2; i < argc; ++i) {
        if (std::atoi(argv[i]) > 0) options.contexts.push_back(std::atoi(argv[i]));
    }
    options.brief = has("brief") || has("grid");
    options.plain = has("plain");
    options.shapes = {{Dtype::bf16, 32, 8, 128}, {Dtype::bf16, 32, 4, 128}};
    if (options.contexts.empty() && has("rates")) options.contexts = {8192, 32768, 65536, 126976, 524288};
    if (options.contexts.empty()) options.contexts = {126976, 32768};
#ifndef ONLY_D128
    if (has("grid")) {
        options.shapes = {{Dtype::bf16, 8, 8, 128}, {Dtype::bf16, 32, 2, 128}, {Dtype::bf16, 32, 8, 64}, {Dtype::bf16, 32, 8, 96}, {Dtype::bf16, 16, 8, 256},
                          {Dtype::bf16, 16, 1, 256}, {Dtype::f16, 32, 8, 128}};
    }
#endif
    if (has("rates")) {
        options.shapes = {{Dtype::bf16, 32, 8, 128}, {Dtype::bf16, 32, 4, 128}, {Dtype::bf16, 28, 4, 128}, {Dtype::bf16, 16, 8, 128}};
#ifndef ONLY_D128
        options.shapes.push_back({Dtype::bf16, 8, 2, 64});
#endif
        bench_rates(options);
        return 0;
    }
    std::vector<Shape> shapes;
    for (const Shape& shape : options.shapes) {
        for (Dtype type : types.empty() ? std::vector<Dtype>{shape.dtype} : types) shapes.push_back({type, shape.num_q_heads, shape.num_kv_heads, shape.head_dim});
    }
    options.shapes = shapes;
    bench(options);
    return 0;
}
