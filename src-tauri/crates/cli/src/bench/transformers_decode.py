"""Decode speed of Hugging Face transformers with a static KV cache, the peer of `reprise bench decode --device cuda`.

    python3 transformers_decode.py [--shape llama-3.1-8b] [--context 1024,126976] [--steps 32]

Weights and cache are made up, bf16, batch 1, greedy. Two ways: as transformers runs it, and its whole step captured as
one CUDA graph. Prints one JSON object a line; times are medians of single steps, between CUDA events.
"""

import argparse
import json
import statistics

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM, StaticCache

LLAMA = dict(vocab_size=128256, rms_norm_eps=1e-5, max_position_embeddings=131072)
SHAPES = {
    "llama-3.1-8b": lambda: LlamaConfig(
        **LLAMA, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=False,
    ),
    "llama-3.2-1b": lambda: LlamaConfig(
        **LLAMA, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
    ),
    "qwen3-4b": lambda: Qwen3Config(
        vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True, max_position_embeddings=131072,
    ),
}


def made_up_model(shape):
    config = SHAPES[shape]()
    config.attn_implementation = "sdpa"
    kind = Qwen3ForCausalLM if isinstance(config, Qwen3Config) else LlamaForCausalLM
    with torch.device("meta"):
        model = kind(config)
    model = model.to(torch.bfloat16).to_empty(device="cuda").eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() == 1:
                tensor.fill_(1.0)
            else:
                tensor.normal_(0.0, tensor.shape[-1] ** -0.5)
        # The table of rotations is a buffer, so it was left empty above.
        rotary = model.model.rotary_emb
        frequencies = 1.0 / (500000.0 ** (torch.arange(0, config.head_dim, 2, device="cuda") / config.head_dim))
        rotary.inv_freq = frequencies.float()
        if hasattr(rotary, "original_inv_freq"):
            rotary.original_inv_freq = rotary.inv_freq
    return model, config


def filled_cache(model, config, context, steps):
    """A static cache that holds `context` made-up tokens and has room for the steps."""
    cache = StaticCache(config=config, max_cache_len=context + 2 * steps + 16)
    token = torch.zeros(1, 1, dtype=torch.long, device="cuda")
    place = torch.tensor([0], device="cuda")
    with torch.no_grad():
        # The first step makes the layers allocate.
        model(token, past_key_values=cache, cache_position=place, use_cache=True)
        for layer in cache.layers:
            layer.keys.normal_()
            layer.values.normal_()
    return cache


def step_of(model, cache, token, place):
    def step():
        logits = model(token, past_key_values=cache, cache_position=place, position_ids=place[None], use_cache=True).logits
        token.copy_(logits[:, -1:].argmax(-1))
        place.add_(1)

    return step


def median_ms(step, steps):
    times = []
    for _ in range(steps):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        step()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def captured(step):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama-3.1-8b", choices=SHAPES)
    parser.add_argument("--context", default="1024,126976")
    parser.add_argument("--steps", type=int, default=32)
    args = parser.parse_args()
    model, config = made_up_model(args.shape)
    for context in (int(text) for text in args.context.split(",")):
        cache = filled_cache(model, config, context, args.steps)
        token = torch.zeros(1, 1, dtype=torch.long, device="cuda")
        place = torch.tensor([context], device="cuda")
        step = step_of(model, cache, token, place)
        with torch.no_grad():
            for _ in range(3):
                step()
            ways = {"as it comes": lambda: step}
            ways["one CUDA graph"] = lambda: captured(step)
            for way, make in ways.items():
                line = dict(
                    bench="decode", engine=f"transformers {transformers.__version__}, torch {torch.__version__}", way=way,
                    device=torch.cuda.get_device_name(), shape=args.shape, weights="bf16", context=context,
                )
                try:
                    line["ms_per_token"] = round(median_ms(make(), args.steps), 4)
                except RuntimeError as error:
                    line["failed"] = str(error).splitlines()[0]
                print(json.dumps(line), flush=True)
        del cache
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
