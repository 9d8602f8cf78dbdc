/* What the reader does for each sample and Python does slowly, equal to the bit: bicubic resizing, and permutations.
 *
 * Resizing a part of an RGB image is OpenCV's `resize` with INTER_CUBIC and without IPP. As there, rows are interpolated across in whole numbers, with weights in 1/2048, and then down in float, with weights in
 * 1/2048**2: a sum from the last tap to the first, rounded to the nearest with ties to even. OpenCV does so eight numbers at
 * a time, and the rest of a row in whole numbers; so views are multiples of eight pixels wide. Whole numbers below 2**24 are exact
 * in float, so that the order of the sums down alone matters; no multiply-add is fused (pyproject.toml: -ffp-contract=off).
 *
 * Permuting is `permute` of gmml_cluster/data/random/feistel.py, one position after the other without its arrays.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { TAPS = 4, CHANNELS = 3, UNIT = 2048 };

typedef struct {
    int at[TAPS];
    int16_t weights[TAPS];
} Reading; /* where a pixel of an axis reads, and how much of it */

typedef void (*Across)(const uint8_t *, int, const Reading *, int, int32_t *);

static int within(int value, int most) { return value < 0 ? 0 : value > most ? most : value; }

static void make_readings(int from, int to, Reading *readings) {
    const float A = -0.75f;
    double scale = 1 / ((double)to / from); /* not from / to, which may differ in the last bit */
    for (int i = 0; i < to; i++) {
        float x = (float)((i + 0.5) * scale - 0.5), w[TAPS];
        int before = (int)floorf(x);
        x -= before;
        w[0] = ((A * (x + 1) - 5 * A) * (x + 1) + 8 * A) * (x + 1) - 4 * A;
        w[1] = ((A + 2) * x - (A + 3)) * x * x + 1;
        w[2] = ((A + 2) * (1 - x) - (A + 3)) * (1 - x) * (1 - x) + 1;
        w[3] = 1.f - w[0] - w[1] - w[2];
        for (int k = 0; k < TAPS; k++) {
            readings[i].at[k] = within(before - 1 + k, from - 1);
            readings[i].weights[k] = (int16_t)lrintf(w[k] * UNIT);
        }
    }
}

static void pixel_across(const uint8_t *row, const Reading *r, int32_t *out) {
    for (int c = 0; c < CHANNELS; c++) {
        int32_t sum = 0;
        for (int k = 0; k < TAPS; k++) sum += row[CHANNELS * r->at[k] + c] * r->weights[k];
        out[c] = sum;
    }
}

static void row_across(const uint8_t *row, int width, const Reading *readings, int size, int32_t *out) {
    (void)width;
    for (int i = 0; i < size; i++) pixel_across(row, readings + i, out + CHANNELS * i);
}

#if defined(__x86_64__)
/* A pixel at a time: its four neighbours are twelve bytes in a row, of which two products and two sums are made. */
__attribute__((target("ssse3"))) static void row_across_ssse3(
    const uint8_t *row, int width, const Reading *readings, int size, int32_t *out) {
    const __m128i first = _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
    const __m128i second = _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    for (int i = 0; i < size; i++) {
        const Reading *r = readings + i;
        int whole = r->at[3] - r->at[0] == TAPS - 1; /* none is a repeated edge */
        if (!whole || CHANNELS * r->at[0] + 16 > CHANNELS * width || i == size - 1) {
            pixel_across(row, r, out + CHANNELS * i);
            continue;
        }
        int32_t pairs[2];
        memcpy(pairs, r->weights, sizeof pairs);
        __m128i bytes = _mm_loadu_si128((const __m128i *)(row + CHANNELS * r->at[0]));
        __m128i one = _mm_madd_epi16(_mm_shuffle_epi8(bytes, first), _mm_set1_epi32(pairs[0]));
        __m128i two = _mm_madd_epi16(_mm_shuffle_epi8(bytes, second), _mm_set1_epi32(pairs[1]));
        /* the fourth number is overwritten by the next pixel; the last pixel is made apart */
        _mm_storeu_si128((__m128i *)(out + CHANNELS * i), _mm_add_epi32(one, two));
    }
}
#endif

static Across best_across(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("ssse3")) return row_across_ssse3;
#endif
    return row_across;
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

WIDE static void down(int32_t *const rows[TAPS], const int16_t *weights, int count, uint8_t *restrict out) {
    const int32_t *restrict a = rows[0], *restrict b = rows[1], *restrict c = rows[2], *restrict d = rows[3];
    const float unit = 1.f / (UNIT * UNIT);
    const float w0 = weights[0] * unit, w1 = weights[1] * unit, w2 = weights[2] * unit, w3 = weights[3] * unit;
    for (int i = 0; i < count; i++) {
        float sum = a[i] * w0 + (b[i] * w1 + (c[i] * w2 + d[i] * w3));
        float shifted = sum + 12582912.f; /* 1.5 * 2**23: its last bit is worth 1 */
        int32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        bits -= 0x4b400000;
        out[i] = bits < 0 ? 0 : bits > 255 ? 255 : bits;
    }
}

/* A row of pixels to the row `y` of each colour's plane. */
WIDE static void to_planes(const uint8_t *restrict row, int size, int y, uint8_t *planes) {
    size_t plane = (size_t)size * size;
    uint8_t *restrict red = planes + (size_t)y * size, *restrict green = red + plane, *restrict blue = green + plane;
    for (int i = 0; i < size; i++) {
        red[i] = row[CHANNELS * i];
        green[i] = row[CHANNELS * i + 1];
        blue[i] = row[CHANNELS * i + 2];
    }
}

/* A part of an image whose rows have `stride` bytes to the planes of a square view; -1 where there is no memory. */
static int resize(const uint8_t *part, Py_ssize_t stride, int height, int width, uint8_t *planes, int size) {
    int count = CHANNELS * size, held[TAPS] = {-1, -1, -1, -1};
    Across across = best_across();
    Reading *columns = malloc(2 * (size_t)size * sizeof *columns), *lines = columns + size;
    int32_t *rows = malloc((size_t)TAPS * count * sizeof *rows);
    uint8_t *made = malloc(count);
    int failed = !(columns && rows && made);
    if (!failed) {
        make_readings(width, size, columns);
        make_readings(height, size, lines);
    }
    for (int y = 0; y < size && !failed; y++) {
        int32_t *read[TAPS];
        for (int k = 0; k < TAPS; k++) { /* four rows in a row never share a slot, and are made once */
            int from = lines[y].at[k], slot = from % TAPS;
            read[k] = rows + (size_t)slot * count;
            if (held[slot] != from) across(part + from * stride, width, columns, size, read[k]);
            held[slot] = from;
        }
        down(read, lines[y].weights, count, made);
        to_planes(made, size, y, planes);
    }
    free(columns), free(rows), free(made);
    return -failed;
}

static PyObject *cubic_planes(PyObject *module, PyObject *arguments) {
    Py_buffer image, view;
    int whole, top, left, height, width, size, failed = 0;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*iiiiiw*i", &image, &whole, &top, &left, &height, &width, &view, &size)) return NULL;
    Py_ssize_t stride = (Py_ssize_t)CHANNELS * whole;
    int inside = whole > 0 && image.len % stride == 0 && top >= 0 && left >= 0 && height > 0 && width > 0 &&
                 left <= whole - width && ((Py_ssize_t)top + height) * stride <= image.len && size > 0 && size % 8 == 0 &&
                 (Py_ssize_t)CHANNELS * size * size == view.len;
    if (inside) {
        const uint8_t *part = (const uint8_t *)image.buf + top * stride + CHANNELS * left;
        Py_BEGIN_ALLOW_THREADS
        failed = resize(part, stride, height, width, view.buf, size);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&image);
    PyBuffer_Release(&view);
    if (!inside) return PyErr_Format(PyExc_ValueError, "the box leaves the image, or the view is of another size or no multiple of 8");
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* The first of Philox4x32-10's words at the counter (c0, c1, 0, 0). */
static uint32_t philox(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1) {
    uint32_t c2 = 0, c3 = 0;
    for (int r = 0; r < 10; r++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t p0 = (uint64_t)c0 * 0xD2511F53u, p1 = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
    }
    return c0;
}

/* The item at a position of a permutation of `size` items: a Feistel network, walked until it leads to an item. */
static int64_t item_at(uint32_t k0, uint32_t k1, uint64_t size, uint64_t item) {
    int half = 0;
    while (half < 32 && (size - 1) >> (2 * half)) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    if (size > 1) do {
        uint64_t high = item >> half, low = item & mask;
        for (uint32_t r = 0; r < 6; r++) {
            uint64_t next = high ^ (philox(k0, k1, (uint32_t)low, r) & mask);
            high = low;
            low = next;
        }
        item = high << half | low;
    } while (item >= size);
    return (int64_t)item;
}

static PyObject *permute(PyObject *module, PyObject *arguments) {
    Py_buffer k0, k1, sizes, items;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*y*w*", &k0, &k1, &sizes, &items)) return NULL;
    Py_ssize_t count = items.len / 8;
    const uint64_t *keys[] = {k0.buf, k1.buf}, *size = sizes.buf;
    int64_t *item = items.buf;
    int right = items.len % 8 == 0 && k0.len == items.len && k1.len == items.len && sizes.len == items.len;
    for (Py_ssize_t i = 0; right && i < count; i++) right = item[i] >= 0 && (uint64_t)item[i] < size[i] && size[i] >> 53 == 0;
    if (right) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count; i++) item[i] = item_at((uint32_t)keys[0][i], (uint32_t)keys[1][i], size[i], item[i]);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&k0);
    PyBuffer_Release(&k1);
    PyBuffer_Release(&sizes);
    PyBuffer_Release(&items);
    if (!right) return PyErr_Format(PyExc_ValueError, "arrays of other lengths, or a position outside its permutation");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"cubic_planes", cubic_planes, METH_VARARGS,
     "cubic_planes(image, image_width, top, left, height, width, view, size): a box of an RGB image, uint8 (H, image_width, 3),\n"
     "to a view (3, size, size), written there. Releases the interpreter lock."},
    {"permute", permute, METH_VARARGS,
     "permute(k0, k1, sizes, items): puts the item at each position of its permutation in the place of the position, int64 (n,);\n"
     "keys and sizes are uint64 (n,). Releases the interpreter lock."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "gmml_native", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_gmml_native(void) { return PyModuleDef_Init(&definition); }
