// Small kernels around a step: moving the cursor, and forgetting ring entries.
#include "step.cuh"

// The newest token is one further. One thread, first in a step's graph.
extern "C" __global__ void advance_step(StepState* state) {
    state->position += 1;
    state->step += 1;
}

// Forgets the entries at positions >= length, of all heads (0 forgets everything). Any grid.
extern "C" __global__ void truncate_ring(const __grid_constant__ Ring ring, int num_q_heads, int length) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < num_q_heads * ring.slots; i += gridDim.x * blockDim.x) {
        if (ring.meta[i].position >= length || length == 0) ring.meta[i] = RingMeta{-1, -__int_as_float(0x7f800000), 0, 0.0f};
    }
}
