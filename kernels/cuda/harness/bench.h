// Timing of layers in a graph.
#pragma once

#include <vector>

#include "device.h"

struct BenchOptions {
    std::vector<int> contexts;
    std::vector<Shape> shapes;
    bool brief = false;  // seven settings only
    bool plain = false;  // also a plain sum over the same bytes
};

void bench(const BenchOptions& options);
// Hit rates against exact attention, as CSV.
void bench_rates(const BenchOptions& options);
