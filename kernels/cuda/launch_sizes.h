// What the host must know to launch: argument structs, block sizes, shared memory (attend.cuh, reuse.cuh), and this.
#pragma once

#include "attend.cuh"
#include "reuse.cuh"

// Blocks per KV head of the reuse kernel: enough to spread the search over the device, not so many that clusters queue.
// Clusters of 16 need the non-portable attribute; before Hopper there are none.
inline int reuse_cluster(int num_kv_heads, int compute_capability_major) {
    if (compute_capability_major < 9) return 1;
    return num_kv_heads <= 4 ? 16 : num_kv_heads <= 16 ? 8 : num_kv_heads <= 32 ? 4 : 2;
}
