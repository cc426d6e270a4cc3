// The oracles' loops on all cores.
#pragma once

#include <algorithm>
#include <functional>
#include <thread>
#include <vector>

// Calls task(0) to task(count - 1), in no order.
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
