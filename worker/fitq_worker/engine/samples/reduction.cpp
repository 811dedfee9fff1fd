// The reduction of reduction.py for one fit after the other, its arrays in the first caches of a core.
//
// The same operations in the same order, and so the same bits: sums go over rows of LANES numbers, neighbours in pairs
// first, as `tree_sum` does. Every array is as long as a whole number of blocks of ROWS rows; what a sample set does not
// fill is zeros of weight zero. -ffp-contract=off keeps every rounding.
//
// MAX_MAGNITUDE, RANK_TOLERANCE, CONSTANT_TOLERANCE and FAR_DEVIATIONS are given by the command that builds it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
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
    double *low, *high, *half_width, *centre, *mean, *scale;
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

// One sample set, and room for the longest. The first polynomial, 1 at the points that count, is not kept: it is
// weight > 0. (A weight lost to underflow is no point then, which changes no sum.) Each pass does all it can while a block
// is at hand.
struct Fit {
    int64_t room, blocks, used;  // `room` in rows
    double low, high, total;     // of x, and the sum of the weights as given
    bool equal_weights;          // all are 1: loaded as shares of their sum
    const double *next_x, *next_y;
    Row *t, *z, *weights, *sums, *basis;

    static int64_t arrays(int64_t coefficients) { return 3 + 2 * std::max<int64_t>(coefficients, 2); }

    Fit(double* memory, int64_t longest, int64_t coefficients) : room(longest / LANES), blocks(0), used(0), low(0), high(0), total(0), equal_weights(true) {
        t = reinterpret_cast<Row*>(memory);
        z = t + room, weights = z + room, basis = weights + room, sums = basis + coefficients * room;
    }

    Row* q(int64_t k) const { return basis + k * room; }
    Row* sums_of(int64_t k) const { return sums + k * room; }

    static void copy_block(Row* to, const double* from, int64_t count) {
        double* numbers = reinterpret_cast<double*>(to);
        if (count >= BLOCK) return (void)std::memcpy(numbers, from, sizeof(double) * BLOCK);
        std::copy(from, from + count, numbers);
        std::fill(numbers + count, numbers + BLOCK, 0.0);
    }

    static void fill_block(Row* to, double number, int64_t count) {
        double* numbers = reinterpret_cast<double*>(to);
        for (int64_t i = 0; i < BLOCK; i++) numbers[i] = i < count ? number : 0.0;
    }

    // A point of weight 0 is none, whatever its x and y.
    static void drop_points(Row* x, Row* y, const Row* w) {
        for (int r = 0; r < ROWS; r++) x[r] = w[r] == 0.0 ? ZERO : x[r], y[r] = w[r] == 0.0 ? ZERO : y[r];
    }

    // Asks for block i of the set after this one, which comes from far memory otherwise: it follows in x and in y.
    void fetch_ahead(int64_t i) const {
        for (int64_t k = 0; k < BLOCK; k += LANES) {
            __builtin_prefetch(next_x + i * BLOCK + k, 0, 2);
            __builtin_prefetch(next_y + i * BLOCK + k, 0, 2);
        }
    }

    // x goes to `t` and y to `z`, both as they come. False where a value cannot be computed with.
    bool load(const Sets& sets, int64_t b) {
        const int64_t start = sets.offsets[b], count = sets.offsets[b + 1] - start;
        const double equal = 1.0 / static_cast<double>(std::max(count, int64_t(1)));
        next_x = sets.x + start + count, next_y = sets.y + start + count;
        blocks = std::max((count + BLOCK - 1) / BLOCK, int64_t(1));
        Row lows = ZERO + INFINITE, highs = ZERO - INFINITE;
        Mask outside = {}, counted = {};
        for (int64_t i = 0; i < blocks; i++) {
            Row *x = t + i * ROWS, *y = z + i * ROWS, *w = weights + i * ROWS;
            const int64_t at = start + i * BLOCK, left = count - i * BLOCK;
            copy_block(x, sets.x + at, left), copy_block(y, sets.y + at, left);
            if (sets.weights) copy_block(w, sets.weights + at, left), drop_points(x, y, w);
            else fill_block(w, equal, left);
            for (int r = 0; r < ROWS; r++) {
                outside |= ~((x[r] >= -MAX_MAGNITUDE) & (x[r] <= MAX_MAGNITUDE));
                outside |= ~((y[r] >= -MAX_MAGNITUDE) & (y[r] <= MAX_MAGNITUDE));
                outside |= ~((w[r] >= 0.0) & (w[r] <= MAX_MAGNITUDE));
                const Mask inside = w[r] > 0.0;
                counted -= inside;
                const Row least = inside ? x[r] : ZERO + INFINITE, most = inside ? x[r] : ZERO - INFINITE;
                lows = least < lows ? least : lows;
                highs = most > highs ? most : highs;
            }
            if (sets.weights) sums[i] = block_sum(w);
            else add_squares(i);
        }
        low = INFINITE, high = -INFINITE, used = 0;
        total = sets.weights ? tree_sum(sums, blocks) : static_cast<double>(count);
        equal_weights = !sets.weights;
        int64_t any = 0;
        for (int lane = 0; lane < LANES; lane++) {
            low = std::min(low, lows[lane]), high = std::max(high, highs[lane]);
            used += counted[lane], any |= outside[lane];
        }
        return !any;
    }

    // A sample set that cannot be computed with counts as one without points.
    void clear() {
        for (int64_t i = 0; i < blocks * ROWS; i++) t[i] = z[i] = weights[i] = ZERO;
        for (int64_t i = 0; i < blocks; i++) sums[i] = sums_of(1)[i] = ZERO;
        low = INFINITE, high = -INFINITE, used = 0, total = 0;
    }

    // The share of block i in the mean and the mean square of y.
    void add_squares(int64_t i) const {
        Row products[ROWS], squares[ROWS];
        for (int r = 0; r < ROWS; r++) {
            products[r] = weights[i * ROWS + r] * z[i * ROWS + r];
            squares[r] = products[r] * z[i * ROWS + r];
        }
        sums[i] = block_sum(products), sums_of(1)[i] = block_sum(squares);
    }

    // Weights whose sum is 1; returns the mean and, through `square`, the mean square of y.
    double normalise(double* square) const {
        if (!equal_weights) {
            const double sum = total > 0 ? total : 1.0;
            for (int64_t i = 0; i < blocks; i++) {
                for (int r = 0; r < ROWS; r++) weights[i * ROWS + r] /= sum;
                add_squares(i);
            }
        }
        *square = tree_sum(sums_of(1), blocks);
        return tree_sum(sums, blocks);
    }

    // y becomes y - mean, of which the mean square is returned, and x becomes t. Also the first half of
    // `orthogonalise` for the first polynomial: `along` is <1, t>.
    double centre(double mean, double place, double half_width, double* along) const {
        for (int64_t i = 0; i < blocks; i++) {
            Row products[ROWS], squares[ROWS];
            for (int r = 0; r < ROWS; r++) {
                const Row w = weights[i * ROWS + r];
                const Row y = w > 0.0 ? z[i * ROWS + r] - mean : ZERO;
                const Row x = w > 0.0 ? (t[i * ROWS + r] - place) / half_width : ZERO;
                z[i * ROWS + r] = y, t[i * ROWS + r] = x;
                squares[r] = w * y * y;
                products[r] = w * x;
            }
            sums[i] = block_sum(products), sums_of(1)[i] = block_sum(squares);
        }
        *along = tree_sum(sums, blocks);
        return tree_sum(sums_of(1), blocks);
    }

    // The x nearest to the weighted mean of x; of two, the lower one.
    double place_of_weight() const {
        for (int64_t i = 0; i < blocks; i++) {
            Row products[ROWS];
            for (int r = 0; r < ROWS; r++) products[r] = weights[i * ROWS + r] * t[i * ROWS + r];
            sums[i] = block_sum(products);
        }
        const double mean = tree_sum(sums, blocks);
        Row least = ZERO + INFINITE, places = ZERO + INFINITE;
        for (int64_t i = 0; i < blocks * ROWS; i++) {
            const Row away = t[i] - mean, size = away < 0.0 ? -away : away;
            const Row distance = weights[i] > 0.0 ? size : ZERO + INFINITE;
            const Mask nearer = (distance < least) | ((distance == least) & (t[i] < places));
            least = nearer ? distance : least, places = nearer ? t[i] : places;
        }
        double distance = INFINITE, place = INFINITE;
        for (int lane = 0; lane < LANES; lane++) {
            if (least[lane] > distance || (least[lane] == distance && places[lane] >= place)) continue;
            distance = least[lane], place = places[lane];
        }
        return place + 0.0;  // no -0.0
    }

    // x and y in the units of the reduction; x as seen from the middle, or from where most of the weight is.
    void standardise(const Reduced& to, int64_t b, bool nearer, double* along) const {
        double square;
        const double mean = normalise(&square), size = std::sqrt(square);
        const double lowest = (low > high ? 0.0 : low) + 0.0, highest = (low > high ? 0.0 : high) + 0.0;  // no -0.0
        const double spread = (highest - lowest) * 0.5, aside = spread > 0 ? 0.0 : 1.0;
        to.low[b] = lowest - aside, to.high[b] = highest + aside, to.half_width[b] = spread > 0 ? spread : 1.0;
        to.centre[b] = nearer ? place_of_weight() : (lowest + highest) * 0.5;
        const double deviation = std::sqrt(centre(mean, to.centre[b], to.half_width[b], along));
        to.varies[b] = deviation > CONSTANT_TOLERANCE * size;
        to.scale[b] = to.varies[b] ? deviation : size > 0 ? size : 1.0;
        to.mean[b] = mean;
    }

    // Block i of `values` without sum(taken[j] q_j), j < count.
    void take_out(int64_t i, Row* values, const double* taken, int64_t count) const {
        for (int r = 0; r < ROWS; r++) values[r] -= weights[i * ROWS + r] > 0.0 ? ZERO + taken[0] : ZERO;
        for (int64_t j = 1; j < count; j++)
            for (int r = 0; r < ROWS; r++) values[r] -= taken[j] * q(j)[i * ROWS + r];
    }

    // The share of block i in <q_j, values>, j < count; `values` are overwritten.
    void project_block(int64_t i, Row* values, int64_t count) const {
        for (int r = 0; r < ROWS; r++) values[r] *= weights[i * ROWS + r];
        sums[i] = block_sum(values);
        for (int64_t j = 1; j < count; j++) {
            Row products[ROWS];
            for (int r = 0; r < ROWS; r++) products[r] = q(j)[i * ROWS + r] * values[r];
            sums_of(j)[i] = block_sum(products);
        }
    }

    void add_up(double* along, int64_t count) const {
        for (int64_t j = 0; j < count; j++) along[j] = tree_sum(sums_of(j), blocks);
    }

    // along[j] = <q_j, t q_k>, j <= k; q_k is given its length, 1, first. t q_k goes where q_{k+1} will be.
    void multiply(int64_t k, double factor, double* along) const {
        for (int64_t i = 0; i < blocks; i++) {
            Row values[ROWS];
            for (int r = 0; r < ROWS; r++) {
                Row& last = q(k)[i * ROWS + r];
                last *= factor;
                values[r] = q(k + 1)[i * ROWS + r] = t[i * ROWS + r] * last;
            }
            project_block(i, values, k + 1);
        }
        add_up(along, k + 1);
    }

    // along[j] = <q_j, z>, j <= degree, of standardised targets; q_degree is given its length, 1, first.
    void project_targets(int64_t degree, double factor, double scale, double* along) const {
        for (int64_t i = 0; i < blocks; i++) {
            Row values[ROWS];
            for (int r = 0; r < ROWS; r++) {
                if (degree) q(degree)[i * ROWS + r] *= factor;
                values[r] = z[i * ROWS + r] /= scale;
            }
            project_block(i, values, degree + 1);
        }
        add_up(along, degree + 1);
    }

    // along[j] = <q_j, direction>, j < count, after sum(taken[j] q_j) has been taken out of `direction`.
    void project(const Row* from, Row* direction, const double* taken, double* along, int64_t count) const {
        for (int64_t i = 0; i < blocks; i++) {
            Row values[ROWS];
            fetch_ahead(i);
            for (int r = 0; r < ROWS; r++) values[r] = from[i * ROWS + r];
            take_out(i, values, taken, count);
            for (int r = 0; r < ROWS; r++) direction[i * ROWS + r] = values[r];
            project_block(i, values, count);
        }
        add_up(along, count);
    }

    // The mean square of `from` without sum(taken[j] q_j), j < count; what is left of it goes to `to`, if that is anything.
    double left(const Row* from, Row* to, const double* taken, int64_t count) const {
        for (int64_t i = 0; i < blocks; i++) {
            Row values[ROWS], products[ROWS];
            for (int r = 0; r < ROWS; r++) values[r] = from[i * ROWS + r];
            take_out(i, values, taken, count);
            for (int r = 0; r < ROWS; r++) {
                if (to) to[i * ROWS + r] = values[r];
                products[r] = weights[i * ROWS + r] * values[r] * values[r];
            }
            sums[i] = block_sum(products);
        }
        return tree_sum(sums, blocks);
    }

    // What is left of t q_k beside q_0 .. q_k, not of length 1 yet, and column k of the Hessenberg matrix. `first` is
    // <q_j, t q_k>. Returns the factor that gives it length 1, 0 where it is rounding.
    double orthogonalise(int64_t k, const double* first, double* column) const {
        double second[MOST_COEFFICIENTS];
        project(k ? q(k + 1) : t, q(k + 1), first, second, k + 1);
        double size = 0.0;
        for (int64_t j = 0; j <= k; j++) {
            column[j] = first[j] + second[j];
            size = std::max(size, std::abs(column[j]));
        }
        const double length = std::sqrt(left(q(k + 1), q(k + 1), second, k + 1));
        const bool independent = length > RANK_TOLERANCE * size;
        column[k + 1] = independent ? length : 0.0;
        return independent ? 1.0 / length : 0.0;
    }
};

// Reduces sample set b. False where x must be seen from nearer; what else is in `to` then means nothing.
bool reduce_fit(Fit& fit, int64_t fits, int64_t degree, const Sets& sets, const Reduced& to, int64_t b, bool nearer) {
    double along[MOST_COEFFICIENTS], factor = 1.0;
    to.invalid[b] = !fit.load(sets, b);
    if (to.invalid[b]) fit.clear();
    fit.standardise(to, b, nearer, along);
    int64_t rank = 1;
    for (int64_t k = 0; k < degree; k++) {
        double column[MOST_COEFFICIENTS] = {};
        if (k) fit.multiply(k, factor, along);
        factor = fit.orthogonalise(k, along, column);
        if (k == 0 && !nearer && std::abs(column[0]) > FAR_DEVIATIONS * column[1]) return false;
        rank += factor > 0;
        for (int64_t j = 0; j <= degree; j++) to.hessenberg[(j * degree + k) * fits + b] = column[j];
    }
    fit.project_targets(degree, factor, to.scale[b], along);
    for (int64_t k = 0; k <= degree; k++) to.target[k * fits + b] = along[k];
    to.floor[b] = fit.left(fit.z, nullptr, along, degree + 1);
    to.rank[b] = std::min(rank, fit.used);
    to.used[b] = fit.used, to.total[b] = fit.total;
    return true;
}

}  // namespace

// Numbers in the memory that `reduce` needs for sets of at most `longest` samples, a multiple of BLOCK.
extern "C" int64_t memory_numbers(int64_t longest, int64_t degree) { return longest * Fit::arrays(degree + 1); }

extern "C" void reduce(int64_t fits, int64_t degree, Sets sets, Reduced to, double* memory, int64_t longest) {
    Fit fit(memory, longest, degree + 1);
    for (int64_t b = 0; b < fits; b++)
        if (!reduce_fit(fit, fits, degree, sets, to, b, false)) reduce_fit(fit, fits, degree, sets, to, b, true);
}
