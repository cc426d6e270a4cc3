"""Times torch's scaled_dot_product_attention on the shapes of the prefill bench, counted the same way."""

import argparse

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention


def median_ms(work):
    """Runs for 0.4 s, so that the clock settles under the load; the second half counts."""
    work()
    torch.cuda.synchronize()
    times = []
    while sum(times) < 400 and len(times) < 200:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    late = sorted(times[len(times) // 2 :])
    return late[len(late) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 64])
    dims = parser.parse_args().dims
    shapes = [(32, 8, 0, 8192), (32, 8, 0, 32768), (32, 8, 98304, 2048), (32, 8, 98304, 4096), (32, 4, 0, 32768), (32, 4, 98304, 2048)]
    backends = [("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)]
    print("torch", torch.__version__, torch.cuda.get_device_name())
    # What a plain product of the same element type reaches on this card: the practical ceiling.
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    ms = median_ms(lambda: a @ b)
    print(f"matmul 8192^3: {ms:.3f} ms {2 * 8192**3 / ms * 1e-9:.1f} TFLOP/s")
    for dim in dims:
        for q_heads, kv_heads, first, n in shapes:
            options = {"dtype": torch.bfloat16, "device": "cuda"}
            q = torch.randn(1, q_heads, n, dim, **options)
            k = torch.randn(1, kv_heads, first + n, dim, **options)
            v = torch.randn(1, kv_heads, first + n, dim, **options)
            how = {"is_causal": True} if first == 0 else {"attn_mask": causal_lower_right(n, first + n)}
            flops = 4.0 * dim * q_heads * (n * first + n * (n + 1) / 2)
            for name, backend in backends:
                label = f"sdpa {name} D{dim} {q_heads}/{kv_heads} {n} at {first}"
                # Some paths refuse grouped heads; repeated K and V then cost memory, not operations.
                for grouped in (True, False):
                    keys, values = (x if grouped else x.repeat_interleave(q_heads // kv_heads, 1) for x in (k, v))
                    try:
                        with sdpa_kernel(backend), torch.no_grad():
                            ms = median_ms(lambda: scaled_dot_product_attention(q, keys, values, enable_gqa=grouped, **how))
                    except (RuntimeError, ValueError, AssertionError) as error:
                        print(f"{label}{'' if grouped else ' repeated'}: {str(error).splitlines()[0][:90]}")
                    else:
                        print(f"{label}{'' if grouped else ' repeated'}: {ms:.3f} ms {flops / ms * 1e-9:.1f} TFLOP/s")
                        break


if __name__ == "__main__":
    main()
