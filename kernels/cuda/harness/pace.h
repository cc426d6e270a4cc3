// Whether a whole step searches: the crate's Pace (kernels/src/pace.rs), rule for rule.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

// Tokens that exact attention reads in the time of: a step of length 0; a search; a step that reads nothing; writing entries.
struct PaceCost {
    double fixed, search, hit, record;

    static PaceCost cuda(int group, int num_kv_heads, int head_dim, double bytes_per_us) {
        const double tokens = bytes_per_us / (4.0 * head_dim * num_kv_heads), width = static_cast<double>(group) * head_dim;
        return {6.0 * tokens, (4.5 + head_dim / 64.0 + width / 330.0) * tokens, (6.0 + head_dim / 64.0 + width / 256.0) * tokens, 0.7 * tokens};
    }
};

struct Pace {
    PaceCost cost;
    double average = NAN;  // tokens lost per layer in steps that searched, exponentially weighted; NaN = none yet
    unsigned remaining = 0;

    static constexpr double kBudget = 1.0 / 50, kWeight = 0.25, kLongest = 64, kBestHit = 0.9;
    static constexpr unsigned kRecorded = 8;

    enum Step { kSearchStep, kRestStep, kExactStep };
    Step next_step(double tokens) {
        if (kBestHit * cost.hit >= cost.fixed + tokens) return kExactStep;
        if (remaining == 0) return kSearchStep;
        return remaining-- <= kRecorded ? kRestStep : kExactStep;
    }
    // reused: groups reused of `groups`, per layer, in the step that searched; tokens: its context.
    void searched(const std::vector<double>& reused, double groups, double tokens) {
        const double exact = cost.fixed + tokens;
        double lost = 0;
        for (double r : reused) lost += (r == groups ? cost.hit - exact : cost.search - tokens * r / groups) / reused.size();
        average = std::isnan(average) ? lost : average + kWeight * (lost - average);
        lost = std::min(lost, average);
        const double rest = std::ceil((lost + kRecorded * cost.record) / (kBudget * exact));
        remaining = lost > 0 ? static_cast<unsigned>(std::min(std::max(rest, 1.0), kLongest)) : 0;
    }
};
