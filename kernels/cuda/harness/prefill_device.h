// Shapes, random data and threads: what the prefill harness stands on.
#pragma once

#include <algorithm>
#include <functional>
#include <thread>
#include <vector>

#include "shape.h"

inline void parallel(int count, const std::function<void(int)>& task) {
    std::vector<std::thread> threads;
    const int workers = std::min<int>(count, std::max(1u, std::thread::hardware_concurrency()));
    for (int w = 0; w < workers; ++w) {
        threads.emplace_back([&, w] {
            for (int i = w; i < count; i += workers) task(i);
        });
    }
    for (auto& thread : threads) thread.join();
}
