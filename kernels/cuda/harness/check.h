// Every check; returns the number of failures.
#pragma once

#include <vector>

// full: everything; quick: fewer and shorter chains; tiny: two short chains per head dimension, for sanitizers that slow a kernel down
// a thousandfold.
enum class CheckSize { full, quick, tiny };

int check_exact(CheckSize size, const std::vector<int>& dims);
int check_reuse(CheckSize size, const std::vector<int>& dims);
