"""docs/reference/order-of-samples.md again, one sample after the other in plain integers: slow, and written apart."""

import itertools

MASK = 0xFFFFFFFF


def philox(key, counter):
    k0, k1 = key
    c = list(counter)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k0, b & MASK, (a >> 32) ^ c[3] ^ k1, a & MASK]
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c


def permutation(seed, purpose, counter, n):
    """The whole permutation as a list."""
    key = philox((seed, purpose), counter)[:2]
    h = 0
    while 4**h < n:
        h += 1

    def item(x):
        while True:
            a, b = x >> h, x % 2**h
            for r in range(6):
                a, b = b, a ^ (philox(key, (b, r, 0, 0))[0] % 2**h)
            x = a * 2**h + b
            if x < n:
                return x

    return [0] if n == 1 else [item(x) for x in range(n)]


def lanes_of(weights, lanes):
    """(corpus, lane in the corpus) of every lane; weights are integers."""
    counts = [weight * lanes // sum(weights) for weight in weights]
    left = [weight * lanes % sum(weights) for weight in weights]
    for _ in range(lanes - sum(counts)):
        c = left.index(max(left))
        counts[c] += 1
        left[c] = -1
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] = 1
    spread = [((2 * p + 1) / (2 * counts[c]), c, p) for c in range(len(counts)) for p in range(counts[c])]
    return [(c, p) for _, c, p in sorted(spread)], counts


def stream_of_epoch(layout, c, epoch):
    """The y of a corpus in the order of its epoch's stream."""
    spans, first = [], 0
    for z in layout.corpora[c].shards:
        for f in range(layout.spans):
            spans.append(range(first + z * f // layout.spans, first + z * (f + 1) // layout.spans))
        first += z
    return [y for p in permutation(layout.seed, 1, (epoch, c, 0, 0), len(spans)) for y in spans[p]]


def epoch_order(layout, c, lanes, epoch):
    """The y of an epoch in the order they are visited: every window is laid out in full, then read row by row."""
    stream = stream_of_epoch(layout, c, epoch)
    N, G, W, seed = len(stream), layout.group, layout.window, layout.seed

    def window(purpose, part, lane=0, number=0):
        order = permutation(seed, purpose, (epoch, c, lane, number), len(part)) if part else []
        return [part[x] for x in order]

    R = lanes * G
    head = (R - epoch * N % R) % R
    tail = (epoch + 1) * N % R
    if N <= R or head + tail > N:
        return window(2, stream)
    rows = (N - head - tail) // R
    walks = []
    for k in range(lanes):
        stretch = stream[head + k * rows * G : head + (k + 1) * rows * G]
        shift = -G * (k * (W // G) // lanes) % W
        cuts = [0] + [t for t in range(1, len(stretch)) if t % W == shift] + [len(stretch)]
        parts = [stretch[a:b] for a, b in itertools.pairwise(cuts)]
        walks.append([y for number, part in enumerate(parts) for y in window(5, part, k, number)])
    body = [walks[k][q * G + i] for q in range(rows) for k in range(lanes) for i in range(G)]
    return window(3, stream[:head]) + body + window(4, stream[N - tail :])


def order(layout, samples):
    """(corpus, epoch, y) of sample numbers 0 .. samples - 1."""
    lanes, counts = lanes_of([round(corpus.weight) for corpus in layout.corpora], layout.lanes)
    epochs = [0] * len(counts)
    waiting = [[] for _ in counts]
    drawn = []
    while len(drawn) < samples:
        for c, _ in lanes:
            for _ in range(layout.group):
                if not waiting[c]:
                    waiting[c] = [(c, epochs[c], y) for y in epoch_order(layout, c, counts[c], epochs[c])]
                    epochs[c] += 1
                drawn.append(waiting[c].pop(0))
    return drawn[:samples]
