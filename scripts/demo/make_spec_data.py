#!/usr/bin/python3
"""Make the small real data of the specs, spec/data, from ../shared/data.

    scripts/demo/make_spec_data.py     writes the files, prints the tables for spec/data/README.md

Only a maintainer runs this, and only when the source changes. The same source gives the same bytes.
Afterwards write the two hnswlib files anew, since they are made of formats/l2.fvecs:

    g++ -O2 -o make_fixture spec/hnswlib/make_fixture.cpp && ./make_fixture spec/data/formats

Source of the data: the environment variable PERIGEE_DATA, or shared/data beside the checkout.
"""
import collections
import os
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
DATA = os.environ.get('PERIGEE_DATA') or os.path.join(os.path.dirname(ROOT), 'shared', 'data')
OUT = os.path.join(ROOT, 'spec', 'data')
ROWS, QUERIES, K = 4000, 100, 100
LARGEST_GROUPS = 8      # the largest groups of equal rows, kept whole
OTHER_GROUPS = 60       # and every some-th of the smaller ones, kept whole too


def read_vecs(path, dtype):
    dtype = np.dtype(dtype)
    raw = np.fromfile(os.path.join(DATA, path), np.uint8)
    dim = int(raw[:4].view('<i4')[0])
    return raw.reshape(-1, 4 + dim * dtype.itemsize)[:, 4:].copy().view(dtype)


def write_vecs(name, rows, dtype):
    rows = np.ascontiguousarray(rows, dtype=dtype)
    n, dim = rows.shape
    record = np.empty((n, 4 + dim * rows.itemsize), np.uint8)
    record[:, :4] = np.frombuffer(np.array(dim, '<i4').tobytes(), np.uint8)
    record[:, 4:] = rows.view(np.uint8).reshape(n, -1)
    record.tofile(os.path.join(OUT, name))


def write_bin(name, rows, dtype):
    with open(os.path.join(OUT, name), 'wb') as f:
        np.array(rows.shape, '<u4').tofile(f)
        np.ascontiguousarray(rows, dtype=dtype).tofile(f)


def write_truth(name, values, largest_first, what):
    """The k best rows of each query, equal values by the smaller row, and their values."""
    order = np.argsort(-values if largest_first else values, axis=1, kind='stable')[:, :K]
    write_vecs(name + '_truth.ivecs', order, '<i4')
    write_vecs(name + '_truth_%s.fvecs' % what, np.take_along_axis(values, order, 1), '<f4')


def equal_rows(base):
    """Groups of equal rows, largest first, then by the first row of the group."""
    groups = collections.defaultdict(list)
    for i, row in enumerate(base):
        groups[row.tobytes()].append(i)
    return sorted((g for g in groups.values() if len(g) > 1), key=lambda g: (-len(g), g[0]))


def make_packages():
    base = read_vecs('debian-packages-96/base.fvecs', '<f4')
    query = read_vecs('debian-packages-96/query.fvecs', '<f4')[::10][:QUERIES]
    with open(os.path.join(DATA, 'debian-packages-96', 'packages.tsv'), encoding='utf-8') as f:
        header = f.readline().rstrip('\n').split('\t')
        table = [dict(zip(header, line.rstrip('\n').split('\t'))) for line in f]
    groups = equal_rows(base)
    rest = groups[LARGEST_GROUPS:]
    whole = groups[:LARGEST_GROUPS] + rest[::len(rest) // OTHER_GROUPS][:OTHER_GROUPS]
    kept = {i for g in whole for i in g}
    others = np.array([i for i in range(len(base)) if i not in kept])
    more = np.random.RandomState(96).choice(others, ROWS - len(kept), replace=False)
    kept = sorted(kept | {int(i) for i in more})

    rows = base[kept]
    write_vecs('packages.fvecs', rows, '<f4')
    write_vecs('packages_queries.fvecs', query, '<f4')
    with open(os.path.join(OUT, 'packages.tsv'), 'w', encoding='utf-8', newline='\n') as f:
        f.write('id\tpackage\tsection\tinstalled_kb\n')
        for i, row in enumerate(kept):
            p = table[row]
            f.write('%d\t%s\t%s\t%s\n' % (i, p['package'], p['section'], p['installed_kb']))
    # A sum per row in one order, not a matrix product: equal rows get values equal to the last bit.
    wide = rows.astype(np.float64)
    values = np.stack([(wide * q).sum(1) for q in query.astype(np.float64)])
    write_truth('packages', values, True, 'similarity')
    same = equal_rows(rows)
    print('packages: %d rows, %d equal to an earlier one, in %d groups, the largest %s' % (
        len(rows), sum(len(g) - 1 for g in same), len(same), [len(g) for g in same[:10]]))


def make_sift():
    base = read_vecs('sift-debian-photos/base.bvecs', 'u1')
    image = np.load(os.path.join(DATA, 'sift-debian-photos', 'base_image.npy'))
    query = read_vecs('sift-debian-photos/query.bvecs', 'u1')[::5][:QUERIES]
    kept = np.arange(0, len(base), len(base) // ROWS)[:ROWS]
    rows = base[kept]
    write_vecs('sift.bvecs', rows, 'u1')
    write_vecs('sift_queries.bvecs', query, 'u1')
    np.save(os.path.join(OUT, 'sift_image.npy'), image[kept].astype('<i4').reshape(-1, 1))
    wide = rows.astype(np.int64)
    values = np.stack([((wide - q) ** 2).sum(1) for q in query.astype(np.int64)])
    write_truth('sift', values, False, 'dist2')
    print_pictures(collections.Counter(image[kept].tolist()))


def print_pictures(count):
    path = os.path.join(DATA, 'sift-debian-photos', 'images.tsv')
    with open(path, encoding='utf-8') as f:
        header = f.readline().rstrip('\n').split('\t')
        pictures = [dict(zip(header, line.rstrip('\n').split('\t'))) for line in f]
    print('\n| image | rows | picture | package | licence | author |')
    print('| --- | --- | --- | --- | --- | --- |')
    for p in pictures:
        rows = 'queries' if p['role'] == 'query' else count[int(p['image'])]
        if rows:
            print('| %s | %s | %s | %s | %s | %s |' % (
                p['image'], rows, p['file'], p['package'], p['licence'], p['copyright']))


def make_formats():
    """5 x 7 numbers in every format. The values follow a rule, so a spec can compute them."""
    os.makedirs(os.path.join(OUT, 'formats'), exist_ok=True)
    place = np.arange(35).reshape(5, 7)             # r * 7 + c
    values = {
        'f8': place * 0.5 - 4, 'f4': place * 0.5 - 4, 'f2': place * 0.5 - 4,
        'i1': place - 17, 'u1': place + 200,
        'i4': (place - 17) * 100000, 'i8': (place - 17) * 2**32,
    }
    for name, v in values.items():
        save_npy(name, v.astype('<' + name))
    f4 = values['f4'].astype('<f4')
    save_npy('f4_version2', f4, version=(2, 0))
    save_npy('f4_fortran', np.asfortranarray(f4))
    save_npy('f4_big_endian', f4.astype('>f4'))
    write_vecs('formats/f4.fvecs', values['f4'], '<f4')
    write_vecs('formats/u1.bvecs', values['u1'], 'u1')
    write_vecs('formats/i4.ivecs', values['i4'], '<i4')
    write_bin('formats/f4.fbin', values['f4'], '<f4')
    write_bin('formats/f2.f16bin', values['f2'], '<f2')
    write_bin('formats/u1.u8bin', values['u1'], 'u1')
    write_bin('formats/i1.i8bin', values['i1'], 'i1')
    write_bin('formats/i4.ibin', values['i4'], '<i4')
    # What the hnswlib files are built from: the first 16 dimensions of every 20th package.
    base = np.fromfile(os.path.join(OUT, 'packages.fvecs'), np.uint8).reshape(ROWS, -1)[:, 4:]
    write_vecs('formats/l2.fvecs', base.copy().view('<f4')[::ROWS // 200, :16], '<f4')


def save_npy(name, values, version=(1, 0)):
    with open(os.path.join(OUT, 'formats', name + '.npy'), 'wb') as f:
        np.lib.format.write_array(f, values, version=version)


def main():
    if not os.path.isdir(DATA):
        sys.exit('make_spec_data.py: no folder %s; set PERIGEE_DATA' % DATA)
    os.makedirs(OUT, exist_ok=True)
    make_packages()
    make_sift()
    make_formats()


if __name__ == '__main__':
    main()
