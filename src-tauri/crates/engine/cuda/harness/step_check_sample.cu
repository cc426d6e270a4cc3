// The sampler against its rules in f64: which tokens may be drawn, and that the draw with a given number falls where it must.

#include <algorithm>
#include <set>

#include "step_check.h"

namespace {

// Philox 4x32-10, first two words.
uint64_t random_bits(uint64_t seed, uint32_t index) {
    uint32_t c[4] = {index, 0, 0, 0}, k[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        const uint64_t p = static_cast<uint64_t>(0xd2511f53u) * c[0], q = static_cast<uint64_t>(0xcd9e8d57u) * c[2];
        const uint32_t next[4] = {static_cast<uint32_t>(q >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(q), static_cast<uint32_t>(p >> 32) ^ c[3] ^ k[1],
                                  static_cast<uint32_t>(p)};
        std::copy(next, next + 4, c);
        k[0] += 0x9e3779b9u, k[1] += 0xbb67ae85u;
    }
    return static_cast<uint64_t>(c[1]) << 32 | c[0];
}

// Everything a launch needs, and its oracle. The scratch is used again and again, as in a chat.
struct Bench {
    int vocab;
    Buffer<float> logits;
    Buffer<SampleSettings> settings;
    Buffer<DecodeState> state;
    Buffer<unsigned> history;
    Buffer<unsigned char> scratch;
    TokenRecord* records = nullptr;
    int num_records;
    std::vector<float> host_logits;
    std::vector<unsigned> host_history;

    Bench(int vocab, int num_records) : vocab(vocab), logits(vocab), settings(1), state(1), history(4096), scratch(128 << 10), num_records(num_records) {
        scratch.zero();
        CHECK(cudaMallocHost(&records, num_records * sizeof(TokenRecord)));
    }
    ~Bench() { cudaFreeHost(records); }
    void set(const std::vector<float>& values, const std::vector<unsigned>& tokens) {
        host_logits = values, host_history = tokens;
        logits.upload(values);
        std::vector<unsigned> padded = tokens;
        padded.resize(4096, 0xffffffffu);
        history.upload(padded);
    }
    void begin(const SampleSettings& s, const DecodeState& at) {
        settings.upload({s});
        state.upload({at});
    }
    void launch_one() {
        const SampleArgs args{logits.data, settings.data, state.data, history.data, records, scratch.data, vocab, 4096, num_records, 0};
        launch_with(reinterpret_cast<const void*>(sample), dim3((vocab + 4095) / 4096), 512, true, nullptr, args);
    }
};

struct Candidate {
    unsigned token;
    double weight;
};

// The kept candidates, in the order of tokens. Empty: not finite.
std::vector<Candidate> kept(const std::vector<float>& raw, const std::vector<unsigned>& history, const SampleSettings& s, unsigned& likeliest) {
    std::vector<float> logits = raw;
    if (s.repeat_penalty != 1) {
        const size_t n = std::min<size_t>(history.size(), s.repeat_last_n);
        const std::set<unsigned> recent(history.end() - n, history.end());
        for (unsigned t : recent)
            if (t < logits.size()) logits[t] = logits[t] >= 0 ? logits[t] / s.repeat_penalty : logits[t] * s.repeat_penalty;
    }
    bool any = false;
    float best = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
        if (std::isnan(logits[i])) return {};
        if (!any || logits[i] > best) best = logits[i], likeliest = static_cast<unsigned>(i), any = true;
    }
    if (!any || !std::isfinite(best)) return {};
    std::vector<Candidate> all;
    for (size_t i = 0; i < logits.size(); ++i) {
        const double weight = s.temperature == 0 ? (i == likeliest) : std::exp((static_cast<double>(logits[i]) - best) / s.temperature);
        if (weight > 0 && weight >= s.min_p) all.push_back({static_cast<unsigned>(i), weight});
    }
    std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) { return a.weight > b.weight || (a.weight == b.weight && a.token < b.token); });
    if (s.top_k > 0 && static_cast<size_t>(s.top_k) < all.size()) all.resize(s.top_k);
    if (s.top_p < 1) {
        double total = 0, sum = 0;
        for (const auto& c : all) total += c.weight;
        size_t n = 0;
        while (n < all.size() && sum < total * s.top_p) sum += all[n++].weight;
        all.resize(std::max<size_t>(n, 1));
    }
    std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
    return all;
}

void check_one(Tally& tally, Bench& bench, const SampleSettings& s, unsigned draws, const char* what) {
    const int position = static_cast<int>(bench.host_history.size()) - 1;
    const DecodeState at{position, 40 + draws, 77, draws};
    bench.begin(s, at);
    std::memset(bench.records, 0xff, bench.num_records * sizeof(TokenRecord));
    bench.launch_one();
    CHECK(cudaDeviceSynchronize());
    const DecodeState after = bench.state.download()[0];
    const TokenRecord record = bench.records[at.step % bench.num_records];
    unsigned likeliest = 0;
    const auto expected = kept(bench.host_logits, bench.host_history, s, likeliest);
    const bool bad = expected.empty(), draw = !bad && s.temperature != 0;
    tally.expect(record.flags == (bad ? kSampleNotFinite : 0u) && record.step == at.step && record.position == position && record.token == after.token &&
                     after.position == position + 1 && after.step == at.step + 1 && after.draws == draws + draw,
                 "%s: record or state (flags %u)", what, record.flags);
    if (bad) return;
    tally.expect(bench.history.download()[position + 1] == after.token, "%s: history", what);
    if (!draw) {
        tally.expect(after.token == likeliest, "%s: %u instead of %u", what, after.token, likeliest);
        return;
    }
    double total = 0, low = -1, high = -1;
    for (const auto& c : expected) {
        if (c.token == after.token) low = total, high = total + c.weight;
        total += c.weight;
    }
    const double point = static_cast<double>(random_bits(s.seed, draws)) / 18446744073709551616.0 * total, slack = 3e-6 * total;
    tally.expect(low >= 0, "%s: token %u is not among the %zu kept", what, after.token, expected.size());
    tally.expect(low < 0 || (point > low - slack && point < high + slack), "%s: token %u of [%g, %g) drawn at %g of %g", what, after.token, low, high, point, total);
}

void check_distribution(Tally& tally) {
    constexpr int kDraws = 20000;
    Bench bench(4, kDraws);
    bench.set({0, std::log(2.0f), std::log(4.0f), std::log(8.0f)}, {0});
    bench.begin({1, 1, 0, 1, 0, 0, 12345}, {0, 0, 0, 0});
    for (int i = 0; i < kDraws; ++i) bench.launch_one();
    CHECK(cudaDeviceSynchronize());
    std::vector<int> counts(4);
    for (int i = 0; i < kDraws; ++i) ++counts[bench.records[i].token & 3];
    for (int i = 0; i < 4; ++i) {
        const double p = (1 << i) / 15.0, bound = 5 * std::sqrt(kDraws * p * (1 - p));
        tally.expect(std::fabs(counts[i] - kDraws * p) < bound, "distribution: token %d %d times for %.0f", i, counts[i], kDraws * p);
    }
}

}  // namespace

void check_sample(Tally& tally, bool quick) {
    // Known answer of the generator's authors for counter and key zero.
    tally.expect(random_bits(0, 0) == 0xe169c58d6627e8d5ull, "Philox");
    std::mt19937 random(99);
    for (int vocab : {1, 5, 100, 8192, 8193, 32000, 128256, 151936}) {
        if (quick && vocab > 40000) continue;
        Bench bench(vocab, 7);
        for (int round = 0; round < 3; ++round) {
            auto logits = normal_values(vocab, random(), round == 2 ? 0.5f : 3.0f);
            if (round == 1)
                for (auto& x : logits) x = std::round(x);  // many ties
            if (vocab > 50) logits[17] = -INFINITY;
            std::vector<unsigned> history(1 + random() % 300);
            for (auto& t : history) t = random() % (vocab + 3);
            bench.set(logits, history);
            const SampleSettings settings[] = {
                {0, 1, 0, 1, 0, 64, 0},      {0, 1, 0, 1.3f, 0, 64, 0},     {1, 1, 0, 1, 0, 64, 1},        {0.7f, 1, 0, 1, 40, 64, 2},     {0.7f, 0.9f, 0, 1, 0, 64, 3},
                {1, 0.95f, 0, 1, 20, 64, 4}, {1.3f, 1, 0.05f, 1, 0, 64, 5}, {0.8f, 0.95f, 0.01f, 1.1f, 50, 128, 6}, {2, 0.5f, 0, 1, 1000, 64, 7}, {1, 0.01f, 0, 1, 0, 64, 8},
                {1, 1, 0, 1, 1, 64, 9},      {0.01f, 1, 0, 1, 0, 64, 10},   {1, 1, 1, 1, 0, 64, 11},       {1, 0.999f, 0, 2, 0, 100000, 12}, {100, 0.3f, 0, 1, 7, 0, 1ull << 60}};
            int index = 0;
            for (const auto& s : settings) {
                char what[128];
                std::snprintf(what, sizeof what, "sample vocab %d round %d settings %d", vocab, round, index++);
                check_one(tally, bench, s, random() % 1000, what);
            }
        }
        const SampleSettings greedy{0, 1, 0, 1, 0, 64, 0}, warm{1, 0.9f, 0, 1, 5, 64, 0};
        for (float broken : {NAN, INFINITY, -INFINITY}) {
            std::vector<float> logits(vocab, broken == -INFINITY ? broken : 1.0f);
            logits[vocab / 2] = broken;
            bench.set(logits, {1, 2});
            check_one(tally, bench, greedy, 0, "broken logits, greedy"), check_one(tally, bench, warm, 0, "broken logits, warm");
        }
    }
    check_distribution(tally);
    Bench small(9000, 1);
    small.set(std::vector<float>(9000, 1.0f), {0});
    small.begin({0, 1, 0, 1, 0, 64, 0}, {0, 0, 0, 0});
    const SampleArgs args{small.logits.data, small.settings.data, small.state.data, small.history.data, small.records, small.scratch.data, 9000, 4096, 1, 0};
    launch_with(reinterpret_cast<const void*>(sample), dim3(2), 512, true, nullptr, args);
    CHECK(cudaDeviceSynchronize());
    tally.expect(small.records[0].flags == kSampleGridTooSmall, "a grid too small");
}
