// check [quick | tiny] [exact | reuse] [dims...]    every kernel against the oracle; the exit status says whether it held
// bench [brief] [plain] [tokens...]    32/8 and 32/4 heads, head dimension 128
// bench grid [tokens...]               many shapes, six settings each
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
    if (has("check")) {
        const CheckSize size = has("tiny") ? CheckSize::tiny : has("quick") ? CheckSize::quick : CheckSize::full;
#ifdef ONLY_D128
        const std::vector<int> dims = {128};
#else
        std::vector<int> dims;
        for (int i = 2; i < argc; ++i) {
            if (std::atoi(argv[i]) > 0) dims.push_back(std::atoi(argv[i]));
        }
        if (dims.empty()) dims = {64, 96, 128, 256};
#endif
        const int failures = (has("reuse") ? 0 : check_exact(size, dims)) + (has("exact") ? 0 : check_reuse(size, dims));
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
    bench(options);
    return 0;
}
