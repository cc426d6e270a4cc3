"""The llama.cpp side of `reprise bench compare-llama`: one JSON object a line in, one out.

First line in: {"model", "context_tokens", "threads"}; out: {"version"}.
Then each {"prompt_ids", "step_ids"}; out: {"prefill_s", "decode_s"}. Every step is fed the given token, so that both
sides do the same work whatever they would have chosen; the logits of every step are looked at, as sampling would.
"""

import json
import sys
import time


def answer(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main():
    try:
        import llama_cpp
    except ImportError as error:
        answer({"missing": str(error)})
        return
    settings = json.loads(sys.stdin.readline())
    model = llama_cpp.Llama(
        model_path=settings["model"],
        n_ctx=settings["context_tokens"],
        n_threads=settings["threads"],
        n_threads_batch=settings["threads"],
        n_batch=2048,
        n_ubatch=512,
        n_gpu_layers=0,
        flash_attn=True,
        verbose=False,
    )
    vocab = model.n_vocab()
    answer({"version": llama_cpp.__version__})
    for line in sys.stdin:
        work = json.loads(line)
        model.reset()
        start = time.perf_counter()
        model.eval(work["prompt_ids"])
        look(llama_cpp, model, vocab)
        read = time.perf_counter()
        for token in work["step_ids"]:
            model.eval([token])
            look(llama_cpp, model, vocab)
        answer({"prefill_s": read - start, "decode_s": time.perf_counter() - read})


def look(llama_cpp, model, vocab):
    import numpy

    logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return int(numpy.argmax(numpy.ctypeslib.as_array(logits, shape=(vocab,))))


if __name__ == "__main__":
    main()
