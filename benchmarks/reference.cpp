// The ceiling: NAdam on the reduced least-squares problem of many fits, as a person would write it in C++.
//
// loss(w) = sum_k (w_k - d_k)^2 + c, the mean of squares in a basis that is orthonormal on the samples. float32, fits as
// the last axis, in tiles that stay in the first-level cache. Built twice: with -ffast-math, which replaces roots and
// divisions by approximations and so cannot keep the bits, and with options that keep every one of them.
#include <cmath>

constexpr int TILE = 256;

template <int P>
static void descend(int fits, int steps, const float* target, const float* floor, float* w, float* trace, int every,
                    const float* gradient_weight, const float* moment_weight, const float* correction, float lr,
                    float beta1, float beta2, float eps) {
    for (int start = 0; start < fits; start += TILE) {
        const int width = fits - start < TILE ? fits - start : TILE;
        alignas(64) float m[P][TILE] = {}, v[P][TILE] = {}, x[P][TILE], d[P][TILE];
        for (int k = 0; k < P; k++)
            for (int b = 0; b < width; b++) {
                x[k][b] = w[k * fits + start + b];
                d[k][b] = target[k * fits + start + b];
            }
        for (int t = 0; t <= steps; t++) {
            if (t % every == 0)
                for (int b = 0; b < width; b++) {
                    float loss = floor[start + b];
                    for (int k = 0; k < P; k++) loss += (x[k][b] - d[k][b]) * (x[k][b] - d[k][b]);
                    trace[(t / every) * fits + start + b] = loss;
                }
            if (t == steps) break;
            const float g0 = gradient_weight[t], m0 = moment_weight[t], c0 = correction[t];
            for (int k = 0; k < P; k++)
                for (int b = 0; b < TILE; b++) {
                    const float g = 2.0f * (x[k][b] - d[k][b]);
                    m[k][b] = beta1 * m[k][b] + (1.0f - beta1) * g;
                    v[k][b] = beta2 * v[k][b] + (1.0f - beta2) * g * g;
                    x[k][b] -= lr * (g0 * g + m0 * m[k][b]) / (std::sqrt(v[k][b] * c0) + eps);
                }
        }
        for (int k = 0; k < P; k++)
            for (int b = 0; b < width; b++) w[k * fits + start + b] = x[k][b];
    }
}

extern "C" void nadam(int size, int fits, int steps, const float* target, const float* floor, float* w, float* trace,
                      int every, const float* gradient_weight, const float* moment_weight, const float* correction,
                      float lr, float beta1, float beta2, float eps) {
#ifdef __x86_64__
    const unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(mode | 0x8040);  // subnormal numbers are 0, as they are to fitq
#endif
    const auto run = size == 2 ? descend<2> : size == 3 ? descend<3> : size == 4 ? descend<4> : size == 6 ? descend<6> : descend<9>;
    run(fits, steps, target, floor, w, trace, every, gradient_weight, moment_weight, correction, lr, beta1, beta2, eps);
#ifdef __x86_64__
    __builtin_ia32_ldmxcsr(mode);
#endif
}
