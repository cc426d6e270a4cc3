// check [quick | chains] | bench [brief | steps]

#include "step_check.h"

int main(int argc, char** argv) {
    const std::string command = argc > 1 ? argv[1] : "", option = argc > 2 ? argv[2] : "";
    if (command == "bench") {
        bench(option);
        return 0;
    }
    if (command != "check") {
        std::printf("check [quick | chains] or bench [brief | steps]\n");
        return 2;
    }
    Tally tally;
    const bool quick = option == "quick";
    if (option != "chains") {
        check_layouts(tally, quick);
        check_rows(tally);
        check_heads(tally);
        check_sample(tally, quick);
        check_products(tally, quick);
    }
    check_chains(tally, quick);
    std::printf("%d comparisons, %d failures\n", tally.cases, tally.failures);
    return tally.failures == 0 ? 0 : 1;
}
