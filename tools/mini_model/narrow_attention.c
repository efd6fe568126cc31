/* Softmax attention for heads of a few channels, float32, one thread.
 *
 * Tensors are [batch, tokens, heads * width], as the linear layers leave them. The scores are never stored:
 * each query's row lives in the first-level cache and is recomputed in the backward pass. Inner loops run
 * along the keys, so that the compiler vectorizes them (-O3 -march=native -ffast-math).
 */
#include <math.h>
#include <string.h>

#define MAX_KEYS 1024
#define MAX_WIDTH 16
#define INLINE static inline __attribute__((always_inline))

typedef float Rows[MAX_WIDTH][MAX_KEYS]; /* one head's keys or values, transposed: channel by channel */

INLINE void gather(Rows rows, const float *source, int tokens, int stride, int width) {
    for (int token = 0; token < tokens; token++)
        for (int channel = 0; channel < width; channel++)
            rows[channel][token] = source[token * stride + channel];
}

INLINE void scatter(float *target, Rows rows, int tokens, int stride, int width) {
    for (int token = 0; token < tokens; token++)
        for (int channel = 0; channel < width; channel++)
            target[token * stride + channel] = rows[channel][token];
}

/* row[j] = sum over channels of vector[c] * rows[c][j] */
INLINE void project(float *row, const float *vector, Rows rows, int tokens, int width) {
    for (int j = 0; j < tokens; j++) {
        float sum = 0;
        for (int channel = 0; channel < width; channel++) sum += vector[channel] * rows[channel][j];
        row[j] = sum;
    }
}

INLINE float dot(const float *a, const float *b, int count) {
    float sum = 0;
    for (int j = 0; j < count; j++) sum += a[j] * b[j];
    return sum;
}

INLINE void forward_head(const float *q, const float *k, const float *v, float *out, float *log_sum,
                         int queries, int keys, int stride, int width, float scale) {
    Rows key_rows, value_rows;
    float row[MAX_KEYS];
    gather(key_rows, k, keys, stride, width);
    gather(value_rows, v, keys, stride, width);
    for (int i = 0; i < queries; i++) {
        project(row, q + i * stride, key_rows, keys, width);
        float highest = row[0], sum = 0;
        for (int j = 1; j < keys; j++) highest = row[j] > highest ? row[j] : highest;
        for (int j = 0; j < keys; j++) {
            row[j] = expf(scale * (row[j] - highest));
            sum += row[j];
        }
        for (int channel = 0; channel < width; channel++)
            out[i * stride + channel] = dot(row, value_rows[channel], keys) / sum;
        log_sum[i] = scale * highest + logf(sum);
    }
}

INLINE void backward_head(const float *q, const float *k, const float *v, const float *out,
                          const float *log_sum, const float *d_out, float *d_q, float *d_k, float *d_v,
                          int queries, int keys, int stride, int width, float scale) {
    Rows key_rows, value_rows, d_key_rows, d_value_rows;
    float share[MAX_KEYS], slope[MAX_KEYS];
    gather(key_rows, k, keys, stride, width);
    gather(value_rows, v, keys, stride, width);
    for (int channel = 0; channel < width; channel++) {
        memset(d_key_rows[channel], 0, keys * sizeof(float));
        memset(d_value_rows[channel], 0, keys * sizeof(float));
    }
    for (int i = 0; i < queries; i++) {
        const float *query = q + i * stride, *d_row = d_out + i * stride;
        float mean = 0;
        for (int channel = 0; channel < width; channel++) mean += d_row[channel] * out[i * stride + channel];
        project(share, query, key_rows, keys, width);
        project(slope, d_row, value_rows, keys, width);
        for (int j = 0; j < keys; j++) {
            share[j] = expf(scale * share[j] - log_sum[i]);
            slope[j] = share[j] * (slope[j] - mean) * scale;
        }
        for (int channel = 0; channel < width; channel++) {
            const float query_value = query[channel], d_value = d_row[channel];
            d_q[i * stride + channel] = dot(slope, key_rows[channel], keys);
            for (int j = 0; j < keys; j++) {
                d_key_rows[channel][j] += slope[j] * query_value;
                d_value_rows[channel][j] += share[j] * d_value;
            }
        }
    }
    scatter(d_k, d_key_rows, keys, stride, width);
    scatter(d_v, d_value_rows, keys, stride, width);
}

/* The width as a constant lets the compiler unroll the loops over channels. */
#define FOR_WIDTH(call)              \
    switch (width) {                 \
        case 4: call(4); break;      \
        case 8: call(8); break;      \
        case 10: call(10); break;    \
        default: call(width); break; \
    }

void attention_forward(const float *q, const float *k, const float *v, float *out, float *log_sum, int batch,
                       int heads, int queries, int keys, int width, float scale) {
    const int stride = heads * width;
    for (int b = 0; b < batch; b++)
        for (int h = 0; h < heads; h++) {
            const long at_query = (long)b * queries * stride + h * width;
            const long at_key = (long)b * keys * stride + h * width;
#define FORWARD(w)                                                                                          \
    forward_head(q + at_query, k + at_key, v + at_key, out + at_query, log_sum + (b * heads + h) * queries, \
                 queries, keys, stride, w, scale)
            FOR_WIDTH(FORWARD)
        }
}

void attention_backward(const float *q, const float *k, const float *v, const float *out,
                        const float *log_sum, const float *d_out, float *d_q, float *d_k, float *d_v,
                        int batch, int heads, int queries, int keys, int width, float scale) {
    const int stride = heads * width;
    for (int b = 0; b < batch; b++)
        for (int h = 0; h < heads; h++) {
            const long at_query = (long)b * queries * stride + h * width;
            const long at_key = (long)b * keys * stride + h * width;
#define BACKWARD(w)                                                                                          \
    backward_head(q + at_query, k + at_key, v + at_key, out + at_query, log_sum + (b * heads + h) * queries, \
                  d_out + at_query, d_q + at_query, d_k + at_key, d_v + at_key, queries, keys, stride, w, \
                  scale)
            FOR_WIDTH(BACKWARD)
        }
}
