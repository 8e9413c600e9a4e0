#!/usr/bin/python3
"""Make the compact data of the demo, scripts/demo/data, from ../shared/data/debian-packages-96.

    scripts/demo/make_data.py     writes the files and prints what was lost by making them small

Only a maintainer runs this, and only when the source changes: the files it writes are in the
repository, and the product never needs Python. The same source gives the same bytes.

Every vector is kept as 96 signed bytes: row / max|row| * 127, rounded. That keeps the direction,
which is all that a cosine looks at, and equal rows stay equal. A term's length matters as well,
since terms are added up to make a query; so the term vectors carry one f32 scale each.

Source of the data: the environment variable PERIGEE_DATA, or shared/data beside the checkout.
"""
import gzip
import math
import os
import re
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
DATA = os.environ.get('PERIGEE_DATA') or os.path.join(os.path.dirname(ROOT), 'shared', 'data')
SOURCE = os.path.join(DATA, 'debian-packages-96')
OUT = os.path.join(HERE, 'data')
COLUMNS = ('package', 'section', 'installed_kb', 'priority', 'synopsis')
K = 10


def read_vecs(name, dtype):
    dtype = np.dtype(dtype)
    raw = np.fromfile(os.path.join(SOURCE, name), np.uint8)
    dim = int(raw[:4].view('<i4')[0])
    return raw.reshape(-1, 4 + dim * dtype.itemsize)[:, 4:].copy().view(dtype)


def read_table(name):
    with open(os.path.join(SOURCE, name), encoding='utf-8') as f:
        header = f.readline().rstrip('\n').split('\t')
        return [dict(zip(header, line.rstrip('\n').split('\t'))) for line in f]


def to_bytes(rows):
    """Signed bytes of the same direction, and the factor that brings the old length back."""
    top = np.abs(rows).max(axis=1, keepdims=True)
    return np.rint(rows / top * 127).astype(np.int8), (top / 127).astype('<f4')


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_text(name, lines):
    with open(os.path.join(OUT, name), 'w', encoding='utf-8', newline='\n') as f:
        f.write('\n'.join(lines) + '\n')


def write_attributes(packages):
    lines = ['\t'.join(COLUMNS)] + ['\t'.join(p[c] for c in COLUMNS) for p in packages]
    text = ('\n'.join(lines) + '\n').encode('utf-8')
    # No file name and no time in the header: the same text gives the same file.
    with open(os.path.join(OUT, 'packages.tsv.gz'), 'wb') as f:
        with gzip.GzipFile(filename='', mode='wb', compresslevel=9, fileobj=f, mtime=0) as z:
            z.write(text)


def sentence_vector(text, slot, stop, vectors):
    counts = {}
    for token in re.findall('[a-z]+', text.lower()):
        if len(token) >= 2 and token not in stop and token in slot:
            counts[token] = counts.get(token, 0) + 1
    total = np.zeros(vectors.shape[1])
    for token, n in counts.items():
        total += (1 + math.log(n)) * vectors[slot[token]]
    length = np.linalg.norm(total)
    return total / length if length > 0 else None


def report_terms(sentences, terms, stop, vectors, small, scales):
    slot = {t: i for i, t in enumerate(terms)}
    restored = small.astype(np.float64) * scales
    cosines = []
    for s in sentences:
        a = sentence_vector(s, slot, stop, vectors.astype(np.float64))
        if a is not None:
            cosines.append(float(a @ sentence_vector(s, slot, stop, restored)))
    print('query from compact terms against query from original terms, %d sentences: '
          'cosine mean %.6f, least %.6f' % (len(cosines), np.mean(cosines), min(cosines)))


def report_recall(what, base, query, small_base, small_query):
    """Recall by value: a row is right when its original similarity reaches the k-th true one."""
    worst = read_vecs('gt_ip_sim.fvecs', '<f4')[:, K - 1].astype(np.float64)
    rows, queries = unit(small_base).astype(np.float32), unit(small_query).astype(np.float32)
    right = 0
    for first in range(0, len(query), 250):
        part = slice(first, first + 250)
        found = np.argpartition(-(queries[part] @ rows.T), K, axis=1)[:, :K]
        similarity = (base[found].astype(np.float64) * query[part, None].astype(np.float64)).sum(2)
        right += (similarity >= (worst[part] - 1e-5 * np.abs(worst[part]))[:, None]).sum()
    print('recall@%d by value, %s: %.4f' % (K, what, right / (len(query) * K)))


def main():
    if not os.path.isdir(SOURCE):
        sys.exit('make_data.py: no folder %s; set PERIGEE_DATA' % SOURCE)
    os.makedirs(OUT, exist_ok=True)
    base, query, term = (read_vecs(n, '<f4') for n in ('base.fvecs', 'query.fvecs', 'terms.fvecs'))
    packages = read_table('packages.tsv')
    terms = [row['term'] for row in read_table('terms.tsv')]
    with open(os.path.join(SOURCE, 'stopwords.txt'), encoding='utf-8') as f:
        stop = f.read().split()
    assert len(packages) == len(base) and len(terms) == len(term)

    small_base, small_query = to_bytes(base)[0], to_bytes(query)[0]
    small_term, scales = to_bytes(term)
    np.save(os.path.join(OUT, 'base.npy'), small_base)
    np.save(os.path.join(OUT, 'queries.npy'), small_query)
    np.save(os.path.join(OUT, 'term_vectors.npy'), small_term)
    np.save(os.path.join(OUT, 'term_scales.npy'), scales)
    write_text('terms.txt', terms)
    write_text('stopwords.txt', stop)
    write_attributes(packages)

    sentences = [row['synopsis'] for row in read_table('queries.tsv')]
    report_terms(sentences, terms, set(stop), term, small_term, scales)
    report_recall('compact base and queries', base, query, small_base, small_query)
    report_recall('compact base, original queries', base, query, small_base, query)
    cosine = (unit(small_base) * unit(base)).sum(1)
    print('base row against its original: cosine mean %.6f, least %.6f' % (
        cosine.mean(), cosine.min()))
    print('distinct rows: %d of %d, originally %d' % (
        len(np.unique(small_base, axis=0)), len(base), len(np.unique(base, axis=0))))
    for name in sorted(os.listdir(OUT)):
        print('%9d  %s' % (os.path.getsize(os.path.join(OUT, name)), name))


if __name__ == '__main__':
    main()
