// Every check; returns the number of failures. types: of K and V; none stands for all.
#pragma once

#include <vector>

#include "random.h"

// full: everything; quick: fewer and shorter chains; tiny: two short chains per head dimension, for sanitizers that slow a kernel down
// a thousandfold.
enum class CheckSize { full, quick, tiny };

// What is checked.
struct CheckScope {
    CheckSize size;
    std::vector<int> dims;     // head dimensions
    std::vector<Dtype> types;  // of K and V

    bool has(int dim) const {
        for (int d : dims) {
            if (d == dim) return true;
        }
        return false;
    }
};

int check_exact(const CheckScope& scope);
int check_reuse(const CheckScope& scope);
// Packing and expanding, bit for bit.
int check_formats();
// What 8 bits cost attention: a table, of the formats alone.
void format_errors();
