/* RMS norms with what precedes and follows them in Z-Image's blocks, for training on CPUs.

   Tokens are rows of `width` values, `tokens` of them in each image. Linear layers read and write bfloat16; the
   residual stream is float. Gradients of weights, scales and gates are added to what is there. */

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
enum { MAX_WIDTH = 1024 };

static inline float from_bf16(bf16 value) {
  uint32_t bits = (uint32_t)value << 16;
  float result;
  memcpy(&result, &bits, 4);
  return result;
}

static inline bf16 to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float inverse_rms(const float *x, int width, float epsilon) {
  float sum = 0;
  for (int i = 0; i < width; i++) sum += x[i] * x[i];
  return 1 / sqrtf(sum / width + epsilon);
}

/* The gradient of x / rms(x) with respect to x, from that with respect to the result. */
static inline void norm_backward(const float *x, float inverse, const float *gradient, float *out, int width) {
  float dot = 0;
  for (int i = 0; i < width; i++) dot += gradient[i] * x[i];
  dot *= inverse * inverse * inverse / width;
  for (int i = 0; i < width; i++) out[i] = gradient[i] * inverse - x[i] * dot;
}

/* out = norm(x) * weight * (1 + scale), scale [images, width] */
void scaled_norm_forward(const float *x, const float *weight, const float *scale, bf16 *out, int images, int tokens,
                         int width, float epsilon) {
  for (int row = 0; row < images * tokens; row++) {
    const float *own = x + (long)row * width, *own_scale = scale + (long)(row / tokens) * width;
    float inverse = inverse_rms(own, width, epsilon);
    for (int i = 0; i < width; i++)
      out[(long)row * width + i] = to_bf16(own[i] * inverse * weight[i] * (1 + own_scale[i]));
  }
}

void scaled_norm_backward(const float *x, const float *weight, const float *scale, const bf16 *gradient, float *d_x,
                          float *d_weight, float *d_scale, int images, int tokens, int width, float epsilon) {
  float inner[MAX_WIDTH];
  for (int row = 0; row < images * tokens; row++) {
    long start = (long)row * width, image = (long)(row / tokens) * width;
    const float *own = x + start;
    float inverse = inverse_rms(own, width, epsilon);
    for (int i = 0; i < width; i++) {
      float given = from_bf16(gradient[start + i]), normal = own[i] * inverse, factor = 1 + scale[image + i];
      d_weight[i] += given * normal * factor;
      d_scale[image + i] += given * normal * weight[i];
      inner[i] = given * weight[i] * factor;
    }
    norm_backward(own, inverse, inner, d_x + start, width);
  }
}

/* out = x + gate * norm(change) * weight, gate [images, width] */
void gated_norm_forward(const float *x, const bf16 *change, const float *weight, const float *gate, float *out,
                        int images, int tokens, int width, float epsilon) {
  float own[MAX_WIDTH];
  for (int row = 0; row < images * tokens; row++) {
    long start = (long)row * width, image = (long)(row / tokens) * width;
    for (int i = 0; i < width; i++) own[i] = from_bf16(change[start + i]);
    float inverse = inverse_rms(own, width, epsilon);
    for (int i = 0; i < width; i++)
      out[start + i] = x[start + i] + gate[image + i] * own[i] * inverse * weight[i];
  }
}

void gated_norm_backward(const bf16 *change, const float *weight, const float *gate, const float *gradient,
                         bf16 *d_change, float *d_weight, float *d_gate, int images, int tokens, int width,
                         float epsilon) {
  float own[MAX_WIDTH], inner[MAX_WIDTH], result[MAX_WIDTH];
  for (int row = 0; row < images * tokens; row++) {
    long start = (long)row * width, image = (long)(row / tokens) * width;
    for (int i = 0; i < width; i++) own[i] = from_bf16(change[start + i]);
    float inverse = inverse_rms(own, width, epsilon);
    for (int i = 0; i < width; i++) {
      float given = gradient[start + i], normal = own[i] * inverse;
      d_weight[i] += given * normal * gate[image + i];
      d_gate[image + i] += given * normal * weight[i];
      inner[i] = given * weight[i] * gate[image + i];
    }
    norm_backward(own, inverse, inner, result, width);
    for (int i = 0; i < width; i++) d_change[start + i] = to_bf16(result[i]);
  }
}

/* Queries or keys [images, tokens, heads, head] to [images, heads, tokens, head]: norm(x) * weight, and each pair of
   channels rotated; cosine and sine [tokens, head / 2]. */
void rotated_norm_forward(const bf16 *x, const float *weight, const float *cosine, const float *sine, bf16 *out,
                          int images, int tokens, int heads, int head, float epsilon) {
  float own[MAX_WIDTH];
  for (int row = 0; row < images * tokens * heads; row++) {
    int token = row / heads % tokens;
    long target = (((long)(row / heads / tokens) * heads + row % heads) * tokens + token) * head;
    for (int i = 0; i < head; i++) own[i] = from_bf16(x[(long)row * head + i]);
    float inverse = inverse_rms(own, head, epsilon);
    for (int i = 0; i < head; i++) own[i] *= inverse * weight[i];
    for (int i = 0; i < head / 2; i++) {
      float cos = cosine[token * head / 2 + i], sin = sine[token * head / 2 + i];
      out[target + 2 * i] = to_bf16(own[2 * i] * cos - own[2 * i + 1] * sin);
      out[target + 2 * i + 1] = to_bf16(own[2 * i] * sin + own[2 * i + 1] * cos);
    }
  }
}

void rotated_norm_backward(const bf16 *x, const float *weight, const float *cosine, const float *sine,
                           const bf16 *gradient, bf16 *d_x, float *d_weight, int images, int tokens, int heads,
                           int head, float epsilon) {
  float own[MAX_WIDTH], inner[MAX_WIDTH], result[MAX_WIDTH];
  for (int row = 0; row < images * tokens * heads; row++) {
    int token = row / heads % tokens;
    long target = (((long)(row / heads / tokens) * heads + row % heads) * tokens + token) * head;
    for (int i = 0; i < head; i++) own[i] = from_bf16(x[(long)row * head + i]);
    float inverse = inverse_rms(own, head, epsilon);
    for (int i = 0; i < head / 2; i++) {
      float cos = cosine[token * head / 2 + i], sin = sine[token * head / 2 + i];
      float first = from_bf16(gradient[target + 2 * i]), second = from_bf16(gradient[target + 2 * i + 1]);
      inner[2 * i] = first * cos + second * sin;
      inner[2 * i + 1] = second * cos - first * sin;
    }
    for (int i = 0; i < head; i++) {
      d_weight[i] += inner[i] * own[i] * inverse;
      inner[i] *= weight[i];
    }
    norm_backward(own, inverse, inner, result, head);
    for (int i = 0; i < head; i++) d_x[(long)row * head + i] = to_bf16(result[i]);
  }
}
