// Small kernels around a step: moving the cursor, and forgetting what belonged to a text that was cut off.
#include "step.cuh"

// The newest token is one further. One thread, first in a step's graph.
extern "C" __global__ void advance_step(StepState* state) {
    state->position += 1;
    state->step += 1;
}

// Forgets the entries at positions >= length, of all heads (0 forgets everything), and every pause. Any grid.
extern "C" __global__ void truncate_ring(const __grid_constant__ Ring ring, int num_q_heads, int length, Pause* pauses, int num_kv_heads) {
    const int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    for (int i = thread; i < num_q_heads * ring.slots; i += threads) {
        if (ring.meta[i].position >= length || length == 0) ring.meta[i] = RingMeta{-1, -__int_as_float(0x7f800000), 0, 0.0f};
    }
    for (int i = thread; i < num_kv_heads; i += threads) pauses[i] = Pause{0, 0, 0};
}
