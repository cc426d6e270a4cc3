// gemm_harness check [quick] | bench [m]
#include <string_view>

#include "gemm_device.h"

int main(int argc, char** argv) {
    prepare_kernels();
    const std::string_view command = argc > 1 ? argv[1] : "";
    if (command == "check") return check(argc > 2) == 0 ? 0 : 1;
    if (command == "bench") {
        bench(argc > 2 ? std::atoi(argv[2]) : 0);
        return 0;
    }
    std::printf("gemm_harness check [quick] | bench [m]\n");
    return 2;
}
