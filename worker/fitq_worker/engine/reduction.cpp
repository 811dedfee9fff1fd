// The reduction of reduction.py for one fit after the other, its arrays in the first caches of a core.
//
// The same operations in the same order, and so the same bits: sums go over rows of LANES numbers, neighbours in pairs
// first, as `tree_sum` does. Every array is as long as a whole number of blocks of ROWS rows; what a sample set does not
// fill is zeros of weight zero. -ffp-contract=off keeps every rounding.
//
// MAX_MAGNITUDE, RANK_TOLERANCE and CONSTANT_TOLERANCE are given by the command that builds it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace {

constexpr int64_t LANES = 8, ROWS = 4, BLOCK = LANES * ROWS, MOST_COEFFICIENTS = 64;
constexpr double INFINITE = std::numeric_limits<double>::infinity();

typedef double Row __attribute__((vector_size(LANES * sizeof(double))));
typedef int64_t Mask __attribute__((vector_size(LANES * sizeof(int64_t))));

constexpr Row ZERO = {};

// The sample sets of a frame, one after the other; no weights at all are ones.
struct Sets {
    const int64_t* offsets;
    const double *x, *y, *weights;
};

// The fields of Reduced, the fits last.
struct Reduced {
    double *middle, *half_width, *mean, *scale;
    bool* varies;
    double *hessenberg, *target, *floor;
    int64_t *rank, *used;
    double* total;
    bool* invalid;
};

// Adds up `count` rows that each are the sum of a block; overwrites them.
double tree_sum(Row* rows, int64_t count) {
    for (; count > 1; count = (count + 1) / 2) {
        for (int64_t i = 0; i < count / 2; i++) rows[i] = rows[2 * i] + rows[2 * i + 1];
        if (count % 2) rows[count / 2] = rows[count - 1];
    }
    const Row s = rows[0];
    return (((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))) + 0.0;
}

inline Row block_sum(const Row* rows) { return (rows[0] + rows[1]) + (rows[2] + rows[3]); }

// One sample set, and room for the longest.
struct Fit {
    int64_t room, blocks, rows;  // `room` and `rows` in rows
    Row *t, *z, *weights, *sums, *basis;

    static int64_t arrays(int64_t coefficients) { return 3 + 2 * std::max<int64_t>(coefficients, 2); }

    Fit(double* memory, int64_t longest, int64_t coefficients) : room(longest / LANES), blocks(0), rows(0) {
        t = reinterpret_cast<Row*>(memory);
        z = t + room, weights = z + room, basis = weights + room, sums = basis + coefficients * room;
    }

    Row* q(int64_t k) const { return basis + k * room; }
    Row* sums_of(int64_t k) const { return sums + k * room; }

    static void fill(Row* array, const double* from, int64_t count, int64_t length) {
        double* numbers = reinterpret_cast<double*>(array);
        std::copy(from, from + count, numbers);
        std::fill(numbers + count, numbers + length, 0.0);
    }

    // x goes to `t` and y to `z`, both as they come.
    void load(const Sets& sets, int64_t b) {
        const int64_t start = sets.offsets[b], count = sets.offsets[b + 1] - start;
        const int64_t length = std::max((count + BLOCK - 1) / BLOCK, int64_t(1)) * BLOCK;
        blocks = length / BLOCK, rows = length / LANES;
        fill(t, sets.x + start, count, length);
        fill(z, sets.y + start, count, length);
        if (sets.weights) return fill(weights, sets.weights + start, count, length);
        double* ones = reinterpret_cast<double*>(weights);
        std::fill(ones, ones + count, 1.0);
        std::fill(ones + count, ones + length, 0.0);
    }

    bool is_valid() const {
        Mask outside = {};
        for (int64_t i = 0; i < rows; i++) {
            outside |= ~((t[i] >= -MAX_MAGNITUDE) & (t[i] <= MAX_MAGNITUDE));
            outside |= ~((z[i] >= -MAX_MAGNITUDE) & (z[i] <= MAX_MAGNITUDE));
            outside |= ~((weights[i] >= 0.0) & (weights[i] <= MAX_MAGNITUDE));
        }
        int64_t any = 0;
        for (int lane = 0; lane < LANES; lane++) any |= outside[lane];
        return !any;
    }

    // A sample set that cannot be computed with counts as one without points.
    void screen(const Reduced& to, int64_t b) {
        to.invalid[b] = !is_valid();
        if (to.invalid[b])
            for (int64_t i = 0; i < rows; i++) t[i] = z[i] = weights[i] = ZERO;
    }

    // Weights whose sum is 1; the first polynomial is 1 at the points that count.
    void normalise(const Reduced& to, int64_t b) {
        Mask counted = {};
        for (int64_t i = 0; i < blocks; i++) sums[i] = block_sum(weights + i * ROWS);
        to.total[b] = tree_sum(sums, blocks);
        const double total = to.total[b] > 0 ? to.total[b] : 1.0;
        for (int64_t i = 0; i < rows; i++) {
            const Mask inside = weights[i] > 0.0;
            counted -= inside;
            basis[i] = inside ? ZERO + 1.0 : ZERO;
            weights[i] /= total;
        }
        to.used[b] = 0;
        for (int lane = 0; lane < LANES; lane++) to.used[b] += counted[lane];
    }

    // x becomes t in [-1, 1].
    void map(const Reduced& to, int64_t b) {
        Row lows = ZERO + INFINITE, highs = ZERO - INFINITE;
        for (int64_t i = 0; i < rows; i++) {
            const Row low = basis[i] > 0.0 ? t[i] : ZERO + INFINITE, high = basis[i] > 0.0 ? t[i] : ZERO - INFINITE;
            lows = low < lows ? low : lows;
            highs = high > highs ? high : highs;
        }
        double low = INFINITE, high = -INFINITE;
        for (int lane = 0; lane < LANES; lane++) low = std::min(low, lows[lane]), high = std::max(high, highs[lane]);
        if (low > high) low = high = 0.0;
        low += 0.0, high += 0.0;  // -0.0 becomes 0.0
        const double middle = (low + high) * 0.5, spread = (high - low) * 0.5, half_width = spread > 0 ? spread : 1.0;
        to.middle[b] = middle, to.half_width[b] = half_width;
        for (int64_t i = 0; i < rows; i++) t[i] = basis[i] > 0.0 ? (t[i] - middle) / half_width : ZERO;
    }

    double mean(const Row* values) const {
        for (int64_t i = 0; i < blocks; i++) {
            Row products[ROWS];
            for (int r = 0; r < ROWS; r++) products[r] = weights[i * ROWS + r] * values[i * ROWS + r];
            sums[i] = block_sum(products);
        }
        return tree_sum(sums, blocks);
    }

    double mean_square(const Row* values) const {
        for (int64_t i = 0; i < blocks; i++) {
            Row products[ROWS];
            for (int r = 0; r < ROWS; r++) {
                const Row value = values[i * ROWS + r];
                products[r] = weights[i * ROWS + r] * value * value;
            }
            sums[i] = block_sum(products);
        }
        return tree_sum(sums, blocks);
    }

    // y becomes z = (y - mean) / scale.
    void standardise(const Reduced& to, int64_t b) {
        const double size = std::sqrt(mean_square(z)), centre = mean(z);
        for (int64_t i = 0; i < rows; i++) z[i] = basis[i] > 0.0 ? z[i] - centre : ZERO;
        const double deviation = std::sqrt(mean_square(z));
        const bool varies = deviation > CONSTANT_TOLERANCE * size;
        const double scale = varies ? deviation : size > 0 ? size : 1.0;
        for (int64_t i = 0; i < rows; i++) z[i] /= scale;
        to.mean[b] = centre, to.scale[b] = scale, to.varies[b] = varies;
    }

    // Block i of `direction` without sum(taken[j] q_j), j < count, there and in `values`.
    void take_out(int64_t i, Row* direction, const double* taken, int64_t count, Row* values) const {
        for (int r = 0; r < ROWS; r++) values[r] = direction[i * ROWS + r];
        for (int64_t j = 0; j < count; j++)
            for (int r = 0; r < ROWS; r++) values[r] -= taken[j] * q(j)[i * ROWS + r];
        for (int r = 0; r < ROWS; r++) direction[i * ROWS + r] = values[r];
    }

    // along[j] = <q_j, direction>, j < count, after sum(taken[j] q_j), j < gone, has been taken out of `direction`.
    void project(Row* direction, const double* taken, int64_t gone, double* along, int64_t count) const {
        for (int64_t i = 0; i < blocks; i++) {
            Row values[ROWS], products[ROWS];
            take_out(i, direction, taken, gone, values);
            for (int r = 0; r < ROWS; r++) values[r] *= weights[i * ROWS + r];
            for (int64_t j = 0; j < count; j++) {
                for (int r = 0; r < ROWS; r++) products[r] = q(j)[i * ROWS + r] * values[r];
                sums_of(j)[i] = block_sum(products);
            }
        }
        for (int64_t j = 0; j < count; j++) along[j] = tree_sum(sums_of(j), blocks);
    }

    // The mean square of what is left of `direction`.
    double left(Row* direction, const double* taken, int64_t count) const {
        for (int64_t i = 0; i < blocks; i++) {
            Row values[ROWS], products[ROWS];
            take_out(i, direction, taken, count, values);
            for (int r = 0; r < ROWS; r++) products[r] = weights[i * ROWS + r] * values[r] * values[r];
            sums[i] = block_sum(products);
        }
        return tree_sum(sums, blocks);
    }

    // The next polynomial from t q_k, and column k of the Hessenberg matrix, `column`.
    bool orthogonalise(int64_t k, double* column) const {
        double first[MOST_COEFFICIENTS], second[MOST_COEFFICIENTS];
        Row* direction = q(k + 1);
        for (int64_t i = 0; i < rows; i++) direction[i] = t[i] * q(k)[i];
        project(direction, nullptr, 0, first, k + 1);
        project(direction, first, k + 1, second, k + 1);
        for (int64_t j = 0; j <= k; j++) column[j] = first[j] + second[j];
        const double length = std::sqrt(left(direction, second, k + 1));
        const bool independent = length > RANK_TOLERANCE;
        column[k + 1] = independent ? length : 0.0;
        const double factor = independent ? 1.0 / length : 0.0;
        for (int64_t i = 0; i < rows; i++) direction[i] *= factor;
        return independent;
    }
};

}  // namespace

// Numbers in the memory that `reduce` needs for sets of at most `longest` samples, a multiple of BLOCK.
extern "C" int64_t memory_numbers(int64_t longest, int64_t degree) { return longest * Fit::arrays(degree + 1); }

extern "C" void reduce(int64_t fits, int64_t degree, Sets sets, Reduced to, double* memory, int64_t longest) {
    Fit fit(memory, longest, degree + 1);
    for (int64_t b = 0; b < fits; b++) {
        fit.load(sets, b);
        fit.screen(to, b);
        fit.normalise(to, b);
        fit.map(to, b);
        fit.standardise(to, b);
        int64_t rank = 1;
        for (int64_t k = 0; k < degree; k++) {
            double column[MOST_COEFFICIENTS] = {};
            rank += fit.orthogonalise(k, column);
            for (int64_t j = 0; j <= degree; j++) to.hessenberg[(j * degree + k) * fits + b] = column[j];
        }
        double target[MOST_COEFFICIENTS];
        fit.project(fit.z, nullptr, 0, target, degree + 1);
        for (int64_t k = 0; k <= degree; k++) to.target[k * fits + b] = target[k];
        to.floor[b] = fit.left(fit.z, target, degree + 1);
        to.rank[b] = std::min(rank, to.used[b]);
    }
}
