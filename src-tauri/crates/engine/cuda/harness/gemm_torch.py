"""Times torch.matmul (bf16, no epilogue) for the sizes of gemm_bench.cu, rotating weights likewise. Arguments: values of m."""

import statistics
import sys

import torch

SIZES = [
    ("llama-3.1-8b", "o", 4096, 4096),
    ("llama-3.1-8b", "qkv", 6144, 4096),
    ("llama-3.1-8b", "gate+up", 28672, 4096),
    ("llama-3.1-8b", "down", 4096, 14336),
    ("qwen3-4b", "o", 2560, 4096),
    ("qwen3-4b", "qkv", 6144, 2560),
    ("qwen3-4b", "gate+up", 19456, 2560),
    ("qwen3-4b", "down", 2560, 9728),
    ("llama-3.2-1b", "o", 2048, 2048),
    ("llama-3.2-1b", "qkv", 3072, 2048),
    ("llama-3.2-1b", "gate+up", 16384, 2048),
    ("llama-3.2-1b", "down", 2048, 8192),
]
ROTATED_BYTES = 200 << 20
TARGET_MS = 15


def time_of(a, weights, c):
    """Milliseconds of one product, from replays of a graph of many."""
    launches = max(len(weights), 20)
    graph = torch.cuda.CUDAGraph()
    torch.matmul(a, weights[0].t(), out=c)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for i in range(launches):
            torch.matmul(a, weights[i % len(weights)].t(), out=c)

    def replay():
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / launches

    replay()
    replays = max(3, int(TARGET_MS / launches / replay()))
    return statistics.median(replay() for _ in range(replays))


def main():
    for m in [int(x) for x in sys.argv[1:]] or [2048, 4096, 300, 64]:
        for model, what, n, k in SIZES:
            a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            copies = ROTATED_BYTES // (n * k * 2) + 1
            weights = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * k**-0.5 for _ in range(copies)]
            c = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
            ms = time_of(a, weights, c)
            print(f"{model:12} {what:8} m {m:5} n {n:5} k {k:5}  torch {ms * 1e3:8.1f} us {2e-9 * m * n * k / ms:4.0f} TFLOP/s", flush=True)


main()
