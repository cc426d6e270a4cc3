// Times of the prefill kernels: CUDA events, medians, every repetition on the same inputs (K and V of a long context do not fit L2).
#include "prefill.h"

namespace {

struct Timing {
    const char* what;
    int num_q_heads, num_kv_heads, first_pos, n;
    int chunk;  // tokens per launch
};

// Products of 4 * D operations, one per query head and visible token.
double operations(const Timing& t, int dim) {
    const double n = t.n;
    return 4.0 * dim * t.num_q_heads * (n * t.first_pos + n * (n + 1) / 2);
}

// Clock of a multiprocessor in MHz, over 40 microseconds. Right after a kernel it is still what the kernel ran at: the card lowers it
// under load, by more than variants differ.
__global__ void measure_clock(float* mhz) {
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    const long long cycles = clock64();
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - begin < 40000);
    *mhz = (clock64() - cycles) * 1e3f / (now - begin);
}

struct Clock {
    cudaEvent_t begin, end;
    Buffer<float> mhz{1};
    Clock() {
        CHECK(cudaEventCreate(&begin));
        CHECK(cudaEventCreate(&end));
    }
    ~Clock() { cudaEventDestroy(begin), cudaEventDestroy(end); }
    float ms(const std::function<void()>& work) {
        CHECK(cudaEventRecord(begin));
        work();
        CHECK(cudaEventRecord(end));
        CHECK(cudaEventSynchronize(end));
        float ms = 0;
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        return ms;
    }
};

float median(std::vector<float> times) {
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

// Variants of one head dimension and type take turns, so that all see the same clocks.
void time_variants(const std::vector<PrefillVariant>& variants, const Timing& timing) {
    const Shape shape{variants[0].dtype, timing.num_q_heads, timing.num_kv_heads, variants[0].head_dim};
    const int most = timing.chunk <= 512 ? 16 : 1;
    Chunk chunk(shape, timing.first_pos, timing.n, 512, 256, 0, most, 0);
    chunk.fill_inputs(5, 1.0f);
    const auto launch = [&](const PrefillVariant& variant, bool seed, PrefillArgs args) {
        const int tiles = prefill_tiles(args, seed, seed ? variant.seed_tile_rows : variant.tile_rows);
        args.splits = prefill_splits(tiles, timing.num_kv_heads, multiprocessors(), args.first_pos + args.n);
        launch_prefill(variant, seed, args, nullptr);
    };
    const auto attend = [&](const PrefillVariant& variant) {
        for (int done = 0; done < timing.n; done += timing.chunk) {
            PrefillArgs args = chunk.args(false);
            args.q = chunk.q.data + static_cast<size_t>(done) * chunk.q_stride;
            args.out = chunk.out.data + static_cast<size_t>(done) * chunk.out_stride;
            args.first_pos += done;
            args.n = std::min(timing.chunk, timing.n - done);
            launch(variant, false, args);
        }
    };
    const double flops = operations(timing, shape.head_dim);
    // Long enough for the clock to settle under the load; the second half counts.
    const int rounds = static_cast<int>(std::min(200.0, std::max(6.0, 2.4e14 / (flops * variants.size()))));
    std::vector<std::vector<float>> times(variants.size()), seeds(variants.size()), clocks(variants.size());
    Clock clock;
    for (int round = 0; round < rounds; ++round) {
        for (size_t place = 0; place < variants.size(); ++place) {
            const size_t i = (place + round) % variants.size();
            const float ms = clock.ms([&] { attend(variants[i]); });
            measure_clock<<<1, 1>>>(clock.mhz.data);
            if (round >= rounds / 2) times[i].push_back(ms), clocks[i].push_back(clock.mhz.download()[0]);
            if (timing.first_pos == 0 || variants[i].name.find("lab") == 0) continue;
            const float seed_ms = clock.ms([&] { launch(variants[i], true, chunk.args(false)); });
            if (round >= rounds / 2) seeds[i].push_back(seed_ms);
        }
    }
    for (size_t i = 0; i < variants.size(); ++i) {
        const float ms = median(times[i]), mhz = median(clocks[i]);
        // Hopper multiplies 16-bit elements at 4096 operations per cycle and multiprocessor.
        std::printf("%-24s %2d/%-2d %-13s %8.3f ms %5.0f TFLOP/s %4.0f MHz %2.0f %%", variants[i].name.c_str(), timing.num_q_heads, timing.num_kv_heads, timing.what, ms,
                    flops / ms * 1e-9, mhz, flops / ms / (mhz * 1e3 * 4096 * multiprocessors()) * 100);
        if (!seeds[i].empty()) std::printf("  seed %d: %.3f ms", prefill_tokens(chunk.args(false), true).count, median(seeds[i]));
        std::printf("\n");
    }
}

}  // namespace

void bench_prefill(const std::string& choice, bool brief) {
    const std::vector<Timing> timings = {{"32K", 32, 8, 0, 32768, 32768},
                                         {"2048 at 98304", 32, 8, 98304, 2048, 2048},
                                         {"2048 at 98304", 32, 4, 98304, 2048, 2048},
                                         {"8K", 32, 8, 0, 8192, 8192},
                                         {"4096 at 98304", 32, 8, 98304, 4096, 4096},
                                         {"32K", 32, 4, 0, 32768, 32768},
                                         {"100K by 2048", 32, 8, 0, 100352, 2048},
                                         {"64 at 98304", 32, 8, 98304, 64, 64}};
    for (int dim : {128, 64, 96, 256}) {
        for (Dtype dtype : {Dtype::bf16, Dtype::f16}) {
            std::vector<PrefillVariant> variants;
            for (const PrefillVariant& variant : prefill_variants()) {
                if (variant.head_dim == dim && variant.dtype == dtype && chosen(variant, choice)) variants.push_back(variant);
            }
            if (variants.empty()) continue;
            const bool few = brief || dim == 96 || dim == 256 || dtype == Dtype::f16;
            for (size_t i = 0; i < timings.size(); ++i) {
                if (i < 2 || !few) time_variants(variants, timings[i]);
            }
        }
    }
}
