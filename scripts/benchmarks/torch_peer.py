"""torch_peer: PyTorch's matmul + topk beside Perigee on one GPU, what the chip itself can do, and the
exact neighbours of the first queries, which the recall of all is counted by.

    torch_peer.py folder=DIR [rounds=5] [truth=1000]

DIR holds base-SET.fbin and queries-SET.fbin; truth-SET-DTYPE.i64 is written there. Lines of key=value
words between tabs, as device.c prints them.
"""

import os
import statistics
import sys

import numpy
import torch

K = 10


def say(**words):
    print("\t".join(f"{key}={value}" for key, value in words.items()), flush=True)


def rows_of(path):
    rows, columns = numpy.fromfile(path, "<u4", 2)
    return torch.from_numpy(numpy.fromfile(path, "<f4", offset=8).reshape(rows, columns)).cuda()


def seconds_of(run, rounds, least=0.05):
    """The median of rounds, each long enough to hide the way to the device."""
    run()
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    repeat = max(1, min(2000, int(least / (begin.elapsed_time(end) / 1e3))))
    times = []
    for _ in range(rounds):
        begin.record()
        for _ in range(repeat):
            run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / repeat)
    return statistics.median(times)


def roofs(rounds):
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    seconds = seconds_of(lambda: a @ a, rounds)
    say(what="roof", case="f16-gemm-8192", tflops=round(2 * 8192**3 / seconds / 1e12, 1))
    for dim in (128, 768):
        q = torch.randn(10000, dim, device="cuda", dtype=torch.float16)
        x = torch.randn(250000, dim, device="cuda", dtype=torch.float16)
        seconds = seconds_of(lambda: q @ x.T, rounds)
        say(what="roof", case=f"f16-gemm-{dim}", tflops=round(2e4 * 250000 * dim / seconds / 1e12, 1))
    x = torch.empty(1 << 30, device="cuda", dtype=torch.float32)
    y = torch.empty_like(x)
    say(what="roof", case="copy", tbps=round(2 * x.nbytes / seconds_of(lambda: y.copy_(x), rounds) / 1e12, 3))
    say(what="roof", case="read", tbps=round(x.nbytes / seconds_of(lambda: x.sum(), rounds) / 1e12, 3))


def nearest(queries, rows, norms, k, tile):
    """Tiles of rows: |x|^2 - 2 <q, x>, the best of each, the best of those."""
    best_values, best_ids = [], []
    for begin in range(0, len(rows), tile):
        values = torch.addmm(norms[begin : begin + tile], queries, rows[begin : begin + tile].T, alpha=-2)
        found = torch.topk(values, min(k, values.shape[1]), largest=False)
        best_values.append(found.values)
        best_ids.append(found.indices + begin)
    values, ids = torch.cat(best_values, 1), torch.cat(best_ids, 1)
    return torch.gather(ids, 1, torch.topk(values, k, largest=False).indices)


def write_truth(folder, name, dtype, queries, rows):
    """By float64, ties to the lower row."""
    ids = []
    wide = rows.double()
    norms = (wide * wide).sum(1)
    for query in queries.double().split(100):
        values = norms - 2 * query @ wide.T
        found = torch.topk(values, 64, largest=False).indices
        exact = ((query[:, None, :] - wide[found]) ** 2).sum(2)
        order = numpy.lexsort((found.cpu().numpy(), exact.cpu().numpy()))[:, :K]
        ids.append(numpy.take_along_axis(found.cpu().numpy(), order, 1))
    ids = numpy.concatenate(ids).astype("<i8")
    ids.tofile(os.path.join(folder, f"truth-{name}-{dtype}.i64"))
    return torch.from_numpy(ids).cuda()


def recall(found, truth):
    return (found[: len(truth), :, None] == truth[:, None, :]).any(2).float().mean().item()


def search(folder, name, kinds, task):
    base, asked = (rows_of(os.path.join(folder, f"{what}-{name}.fbin")) for what in ("base", "queries"))
    truths = {}
    for kind, dtype in kinds:
        rounded = base.half().float() if dtype == "f16" else base
        if dtype not in truths:
            truths[dtype] = write_truth(folder, name, dtype, asked[: task["truth"]], rounded)
        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        number = {"f16": torch.float16, "bf16": torch.bfloat16}.get(kind, torch.float32)
        queries, rows = asked.to(number), base.to(number)
        norms = (rounded * rounded).sum(1).to(number)
        best = None
        for tile in (32768, 131072):
            seconds = seconds_of(lambda: nearest(queries, rows, norms, K, tile), task["rounds"], 0)
            best = min(best or seconds, seconds)
        found = nearest(queries, rows, norms, K, 131072)
        say(what="torch", case=f"{kind}-{name}", set=name, dtype=dtype, queries=len(queries), k=K,
            ms=round(1e3 * best, 3), qps=round(len(queries) / best),
            recall=round(recall(found, truths[dtype]), 4))
    if name == "16x128":
        small_batches(base, asked, name, task)


def small_batches(base, asked, name, task):
    """The faster of f32 and tf32 products; norms are made before."""
    norms = (base * base).sum(1)
    for count in (1, 16, 32, 64, 128, 256, 1024):
        some, best = asked[:count], None
        for tf32 in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            seconds = seconds_of(lambda: nearest(some, base, norms, K, len(base)), task["rounds"], 0.02)
            best = min(best or seconds, seconds)
        case = "f32-one" if count == 1 else f"f32-{count}"
        say(what="torch", case=case, set=name, queries=count, k=K, ms=round(1e3 * best, 4))


def select(rounds):
    values = torch.rand(1000, 1000000, device="cuda")
    for k in (10, 64, 256):
        seconds = seconds_of(lambda: torch.topk(values, k, largest=False), rounds, 0)
        say(what="torch", case=f"select-{k}", rows=1000, columns=1000000, k=k, ms=round(1e3 * seconds, 3))


def main():
    task = {"rounds": 5, "truth": 1000}
    for word in sys.argv[1:]:
        key, value = word.split("=", 1)
        task[key] = value if key == "folder" else int(value)
    roofs(task["rounds"])
    select(task["rounds"])
    search(task["folder"], "16x128", [("bf16", "f32"), ("tf32", "f32"), ("f32", "f32"), ("f16", "f16")], task)
    search(task["folder"], "32x128", [("bf16", "f32")], task)
    search(task["folder"], "16x768", [("f16", "f16")], task)


main()
