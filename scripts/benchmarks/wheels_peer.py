"""wheels_peer: FAISS and hnswlib as the Python package index has them, asked by measure.lua in the
way that peer.hpp says.

    wheels_peer.py library=faiss|hnswlib KEY=VALUE...      and the keys of peer.hpp

Whole batches go through one call, so that Python's own time is no part of what is measured.
"""

import sys
import time

import numpy

TOLERANCE = 1e-5  # relative, as peri_recall has it
OWN = ("do", "name", "k", "threads", "seconds")


def read_words(words):
    return dict(word.split("=", 1) for word in words)


def read_rows(path):
    """.fbin: the numbers of rows and columns, then rows. .fvecs, .bvecs: a length before each."""
    if path.endswith(".fbin"):
        rows, columns = numpy.fromfile(path, "<u4", 2)
        return numpy.fromfile(path, "<f4", offset=8).reshape(rows, columns)
    item = 1 if path.endswith(".bvecs") else 4
    columns = int(numpy.fromfile(path, "<i4", 1)[0])
    rows = numpy.fromfile(path, "u1").reshape(-1, 4 + columns * item)[:, 4:]
    values = numpy.ascontiguousarray(rows) if item == 1 else numpy.ascontiguousarray(rows).view("<f4")
    return values.astype("f4")


class Faiss:
    def __init__(self, task):
        import faiss

        self.faiss, self.task, self.indexes = faiss, task, {}

    def build(self, asked):
        faiss, base = self.faiss, self.task["base"]
        faiss.omp_set_num_threads(int(asked["threads"]))
        metric = faiss.METRIC_INNER_PRODUCT if self.task["products"] else faiss.METRIC_L2
        self.indexes.pop(asked["name"], None)
        began = time.perf_counter()
        index = faiss.index_factory(base.shape[1], asked["factory"], metric)
        index.train(base)
        index.add(base)
        seconds = time.perf_counter() - began
        self.indexes[asked["name"]] = index
        return seconds, faiss.serialize_index(index).nbytes

    def prepare(self, asked):
        index = self.indexes[asked["name"]]
        for key, value in asked.items():
            if key not in OWN:
                self.faiss.ParameterSpace().set_index_parameter(index, key, float(value))
        self.faiss.omp_set_num_threads(int(asked["threads"]))
        return lambda k: index.search(self.task["queries"], k)[1]


class Hnswlib:
    def __init__(self, task):
        import hnswlib

        if task["dtype"] != "f32":
            raise ValueError("the wheel has no index of " + task["dtype"])
        self.hnswlib, self.task, self.indexes = hnswlib, task, {}

    def build(self, asked):
        base = self.task["base"]
        self.indexes.pop(asked["name"], None)
        began = time.perf_counter()
        index = self.hnswlib.Index("ip" if self.task["products"] else "l2", base.shape[1])
        index.init_index(len(base), ef_construction=int(asked["ef_construction"]),
                         M=int(asked["M"]))
        index.add_items(base, num_threads=int(asked["threads"]))
        seconds = time.perf_counter() - began
        self.indexes[asked["name"]] = index
        return seconds, index.index_file_size()

    def prepare(self, asked):
        index, threads = self.indexes[asked["name"]], int(asked["threads"])
        index.set_ef(int(asked["ef"]))

        def search(k):
            return index.knn_query(self.task["queries"], k, num_threads=threads)[0].astype("i8")

        return search


def values_of(task, ids):
    """Of queries and rows, as the truth has them."""
    queries, rows = task["queries"][:, None, :].astype("f8"), task["base"][ids].astype("f8")
    return (queries * rows).sum(2) if task["products"] else ((queries - rows) ** 2).sum(2)


def recall(task, ids, k):
    """By the rows that were found: the distances of an index of codes are not theirs."""
    values = values_of(task, ids)
    worst = task["truth"][:, k - 1:k].astype("f8")
    slack = TOLERANCE * numpy.maximum(abs(worst), 1e-6)
    near = values >= worst - slack if task["products"] else values <= worst + slack
    return float((near & (ids >= 0)).mean())


def measure(engine, task, asked):
    k, seconds = int(asked["k"]), float(asked["seconds"])
    search = engine.prepare(asked)
    if seconds > 0:
        search(k)
    began, batches, passed = time.perf_counter(), 0, 0
    while batches == 0 or passed < seconds:
        ids = search(k)
        batches += 1
        passed = time.perf_counter() - began
    answer = "qps=%.9g" % (batches * len(task["queries"]) / passed)
    if k <= task["truth"].shape[1]:
        answer += "\trecall=%.9g" % recall(task, ids, k)
    return answer


def main():
    words = read_words(sys.argv[1:])
    task = {name: read_rows(words[name]) for name in ("base", "queries", "truth")}
    task["products"], task["dtype"] = words["metric"] == "ip", words["dtype"]
    engine = None
    for line in sys.stdin:
        if line == "do=stop\n":
            break
        try:
            engine = engine or {"faiss": Faiss, "hnswlib": Hnswlib}[words["library"]](task)
            asked = read_words(line.rstrip("\n").split("\t"))
            if asked["do"] == "build":
                answer = "seconds=%.9g\tbytes=%d" % engine.build(asked)
            else:
                answer = measure(engine, task, asked)
        except Exception as error:  # told to who asked
            answer = "error=" + (str(error) or repr(error)).replace("\n", " ")
        print(answer, flush=True)


main()
