/* The part of a JPEG that a crop shows, for `benchmarks.native`. */

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

enum { MARGIN = 16, CHANNELS = 3 };

struct errors {
    struct jpeg_error_mgr manager;
    jmp_buf out;
};

static void leave(j_common_ptr decoder) { longjmp(((struct errors *)decoder->err)->out, 1); }

static void keep_quiet(j_common_ptr decoder, int level) { (void)decoder, (void)level; }

/* Decode the rows and columns of a box, and MARGIN more columns on both sides, as upsampling reads neighbours.
 * With `whole` all rows below are decoded as far as damage in them shows. Gives the width and the first column of `out`. */
int decode_region(const uint8_t *data, unsigned long size, const int box[4], int whole, uint8_t *out, int got[2]) {
    struct jpeg_decompress_struct decoder = {0};
    struct errors errors;
    decoder.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = leave;
    errors.manager.emit_message = keep_quiet;
    if (setjmp(errors.out)) {
        jpeg_destroy_decompress(&decoder);
        return -1;
    }
    jpeg_create_decompress(&decoder);
    jpeg_mem_src(&decoder, data, size);
    jpeg_read_header(&decoder, TRUE);
    decoder.out_color_space = JCS_RGB;
    jpeg_start_decompress(&decoder);
    int top = box[0], bottom = box[0] + box[2];
    int left = box[1] > MARGIN ? box[1] - MARGIN : 0, right = box[1] + box[3] + MARGIN;
    if (right > (int)decoder.output_width) right = decoder.output_width;
    JDIMENSION first = left, width = right - left;
    jpeg_crop_scanline(&decoder, &first, &width);
    if (top) jpeg_skip_scanlines(&decoder, top);
    while ((int)decoder.output_scanline < bottom) {
        JSAMPROW row = out + (size_t)(decoder.output_scanline - top) * width * CHANNELS;
        jpeg_read_scanlines(&decoder, &row, 1);
    }
    int below = decoder.output_height - decoder.output_scanline;
    if (whole && below) { /* to skip to the very end would not look at the data */
        JSAMPROW row = out + (size_t)box[2] * width * CHANNELS;
        if (below > 1) jpeg_skip_scanlines(&decoder, below - 1);
        jpeg_read_scanlines(&decoder, &row, 1);
    }
    got[0] = width, got[1] = first;
    jpeg_abort_decompress(&decoder);
    jpeg_destroy_decompress(&decoder);
    return 0;
}
