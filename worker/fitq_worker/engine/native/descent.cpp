// The descent: all steps of a tile of fits, whose numbers stay in the first-level cache of a core or, where a tile is one
// fit, in the registers of a thread of a GPU. What is written after a dollar sign is generated from torch's own trace of one
// step.
//
// Every rounding is kept, so that a fit has the bits of the eager descent. Arrays have the batch as last axis.

#ifdef __CUDACC_RTC__
#define ONE_FIT
#define KERNEL extern "C" __global__
#define EACH_FIT(b) _Pragma("unroll") for (int b = 0; b < TILE; b++)
#define LONG_LOOP _Pragma("unroll 1")
#else
#define LONG_LOOP
#define KERNEL extern "C"
#ifdef __clang__
#define EACH_FIT(b) _Pragma("clang loop vectorize(assume_safety)") for (int b = 0; b < TILE; b++)
#else
#define EACH_FIT(b) _Pragma("GCC ivdep") for (int b = 0; b < TILE; b++)
#endif
#endif

$prelude

using Number = $number;
using Index = long long;

#ifdef ONE_FIT
constexpr int TILE = 1;
#else
constexpr int TILE = $tile;
#endif
constexpr int COEFFICIENTS = $coefficients;
// Rows of numbers that stay, of numbers that change, and of those that are kept for looks at whether a fit stops.
constexpr int FIXED = $fixed, STATE = $state, SEEN = $seen;
// Numbers of a line search; 0 where a step does without one.
constexpr int SEARCH = $search, MAX_TRIALS = $max_trials;
// Numbers of a sample; 0 where the loss does without samples.
constexpr int SAMPLE = $sample, TERMS = COEFFICIENTS + 1;
constexpr int COLUMNS = $columns;
constexpr bool ONE_SCHEDULE = $one_schedule;
// A long step, and one for a GPU, is compiled once, with its loss.
#ifdef ONE_FIT
constexpr bool ONE_VERSION = true;
#else
constexpr bool ONE_VERSION = $one_version;
#endif
constexpr int CHECK_STEPS = $check_steps, LANES = $lanes, MOST_LEVELS = 32;
// Rows of `counts`: steps until a fit ends, why it ended, the step of its reference, its patience.
enum { STEPS, END, SINCE, PATIENCE, COUNTS };

// All fields have eight bytes, so that Python and a GPU see the same.
struct Arguments {
    Index fits;            // B
    Index first, stop;     // the steps of this call; the state goes on from one call to the next
    Index watched;         // whether some fit may stop early
    const Number* fixed;   // (FIXED, B)
    Number* state;         // (STATE + SEEN, B)
    int* counts;           // (COUNTS, B)
    const Number* schedule;  // (steps, COLUMNS, width)
    const Index* column;     // (B,) of the schedule, where fits have their own
    Index width;
    const int* recorded;  // the steps whose loss is kept, increasing
    Index records, first_record;
    Number* losses;         // of record k and fit b at k * loss_record + b * loss_fit
    Index loss_record, loss_fit;
    const Number* samples;  // (count, SAMPLE, B)
    Index count;
    Number* memory;  // (count, SAMPLE, TILE), for the samples of a tile
};

// The samples of a tile: number k of sample i of fit b is at first[(i * SAMPLE + k) * stride + b].
struct Samples {
    const Number* first;
    Index count, stride;
};

struct Tile {
    alignas(64) Number fixed[FIXED][TILE];
    alignas(64) Number state[STATE + SEEN][TILE];
    alignas(64) int counts[COUNTS][TILE];
    alignas(64) Index column[TILE];
    alignas(64) Number loss[TILE];
    alignas(64) Number sums[SAMPLE ? TERMS : 1][TILE];
    // A line search: its numbers, the coefficients to try next, and whether some were accepted.
    alignas(64) Number search[SEARCH ? SEARCH : 1][TILE];
    alignas(64) Number trial[SEARCH ? COEFFICIENTS : 1][TILE];
    alignas(64) int accepted[TILE];
};

using Rows = const Number (*)[TILE];

#if $sample
// What sample `at` adds to the loss at w, and to each number of its gradient. All that is not asked for is left out: FIRST
// and END below are the first term that is, and the one after the last.
INLINE void find_terms(const Tile& tile, Rows w, const Number* at, Index stride, int b, Number* term) {
    $terms
}

typedef Number Sums[TERMS][TILE];

template <int FIRST, int END> INLINE void add(Sums& sums, const Sums& others) {
    for (int k = FIRST; k < END; k++) EACH_FIT(b) sums[k][b] += others[k][b];
}

INLINE void copy(Sums& sums, const Sums& others) {
    for (int k = 0; k < TERMS; k++) EACH_FIT(b) sums[k][b] = others[k][b];
}

// sums = the terms of samples i, i + LANES, ... in a tree: neighbours are added in pairs until one is left. Those of the
// first of each pair and of the second are found together; a level waits for its neighbour.
template <int FIRST, int END> INLINE void add_lane(const Tile& tile, Rows w, Samples samples, Index i, Sums& sums) {
    const auto [first, count, stride] = samples;
    const Index sample = SAMPLE * stride, second = LANES * sample;
    alignas(64) Sums levels[MOST_LEVELS];
    Index pairs = 0;
    LONG_LOOP for (; i + LANES < count; i += 2 * LANES, pairs++) {
        EACH_FIT(b) {
            Number one[TERMS], other[TERMS];
            find_terms(tile, w, first + i * sample, stride, b, one);
            find_terms(tile, w, first + i * sample + second, stride, b, other);
            for (int k = FIRST; k < END; k++) sums[k][b] = one[k] + other[k];
        }
        int level = 0;
        for (; pairs >> level & 1; level++) add<FIRST, END>(sums, levels[level]);
        copy(levels[level], sums);
    }
    const bool single = i < count;
    if (single) EACH_FIT(b) {
        Number one[TERMS];
        find_terms(tile, w, first + i * sample, stride, b, one);
        for (int k = FIRST; k < END; k++) sums[k][b] = one[k];
    }
    bool any = single;
    for (int level = 0; pairs >> level; level++) {
        if (!(pairs >> level & 1)) continue;
        if (any) add<FIRST, END>(sums, levels[level]);
        else copy(sums, levels[level]);
        any = true;
    }
    if (!any) for (int k = 0; k < TERMS; k++) EACH_FIT(b) sums[k][b] = 0;
}

// tile.sums = the sums over all samples in the order of arithmetic.tree_sum: the LANES samples of a row are added by halving.
template <int FIRST, int END> INLINE void add_samples(Tile& tile, Rows w, Samples samples) {
    alignas(64) Sums lanes[LANES];
    LONG_LOOP for (int lane = 0; lane < LANES; lane++) add_lane<FIRST, END>(tile, w, samples, lane, lanes[lane]);
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++) add<FIRST, END>(lanes[lane], lanes[lane + half]);
    for (int k = FIRST; k < END; k++) EACH_FIT(b) tile.sums[k][b] = lanes[0][k][b] + Number(0);  // -0 becomes 0
}
#endif

// `WITH_LOSS` says whether anybody wants the loss before the step.
template <bool WITH_LOSS> INLINE void make_step(Tile& tile, const Arguments& a, int step) {
    const Number* row = a.schedule + static_cast<Index>(step) * COLUMNS * a.width;
    EACH_FIT(b) {
        const Number* own = ONE_SCHEDULE ? row : row + tile.column[b];
        (void)own;
        $step
    }
}

#if $search
// Tries ever shorter steps until all fits of the tile have accepted one.
INLINE void search_line(Tile& tile, const Samples& samples, int step) {
    LONG_LOOP for (int trial = 0, open = 1; trial < MAX_TRIALS && open; trial++) {
        EACH_FIT(b) {
            $trial
        }
#if $sample
        add_samples<0, 1>(tile, tile.trial, samples);
#endif
        EACH_FIT(b) {
            $judge
        }
        open = 0;
        for (int b = 0; b < TILE; b++) open |= !tile.accepted[b];
    }
    EACH_FIT(b) {
        $arrive
    }
}
#endif

// Looks at every fit before `step`; those that end go back to the best coefficients that were seen.
INLINE void look(Tile& tile, int step) {
    EACH_FIT(b) {
        $look
    }
}

INLINE int most_steps(const Tile& tile, int count) {
    int most = 0;
    for (int b = 0; b < count; b++) most = tile.counts[STEPS][b] > most ? tile.counts[STEPS][b] : most;
    return most;
}

template <class Value> INLINE void load(Value (*rows)[TILE], int count, const Value* from, Index fits, Index begin, int width) {
    for (int k = 0; k < count; k++)
        for (int b = 0; b < TILE; b++) rows[k][b] = from[k * fits + begin + (b < width ? b : width - 1)];
}

template <class Value> INLINE void store(const Value (*rows)[TILE], int count, Value* to, Index fits, Index begin, int width) {
    for (int k = 0; k < count; k++)
        for (int b = 0; b < width; b++) to[k * fits + begin + b] = rows[k][b];
}

// The losses from each fit's end on are its final one.
INLINE void settle(const Tile& tile, const Arguments& a, Index begin, int width) {
    for (int b = 0; b < width; b++)
        for (Index k = a.records - 1; k >= 0 && a.recorded[k] >= tile.counts[STEPS][b]; k--)
            a.losses[k * a.loss_record + (begin + b) * a.loss_fit] = tile.loss[b];
}

// Steps a.first .. a.stop - 1 of the fits from `begin` on.
INLINE void descend_tile(const Arguments& a, Index begin) {
    Tile tile;
    const int width = a.fits - begin < TILE ? static_cast<int>(a.fits - begin) : TILE;
    load(tile.counts, COUNTS, a.counts, a.fits, begin, width);
    int last = most_steps(tile, width);
    if (last < a.first) return;
    load(tile.fixed, FIXED, a.fixed, a.fits, begin, width);
    load(tile.state, STATE, static_cast<const Number*>(a.state), a.fits, begin, width);
    if (a.watched) load(tile.state + STATE, SEEN, static_cast<const Number*>(a.state + STATE * a.fits), a.fits, begin, width);
    if (!ONE_SCHEDULE) load(&tile.column, 1, a.column, a.fits, begin, width);
#if !$sample
    const Samples samples = {nullptr, 0, 0};
    (void)samples;
#else
#ifdef ONE_FIT
    const Samples samples = {a.samples + begin, a.count, a.fits};
#else
    const Samples samples = {a.memory, a.count, TILE};
    load(reinterpret_cast<Number(*)[TILE]>(a.memory), static_cast<int>(a.count * SAMPLE), a.samples, a.fits, begin, width);
#endif
#endif
    Index record = a.first_record;
    LONG_LOOP for (int step = static_cast<int>(a.first); step <= last && step < a.stop; step++) {
        const bool looks = a.watched && step % CHECK_STEPS == 0;
        const bool records = record < a.records && a.recorded[record] == step;
        const bool with_loss = ONE_VERSION || looks || records || step == last;
#if $sample
        if (with_loss) add_samples<0, TERMS>(tile, tile.state, samples);
        else add_samples<ONE_VERSION ? 0 : 1, TERMS>(tile, tile.state, samples);
#endif
        if (looks) look(tile, step), last = most_steps(tile, width);
        if (with_loss) make_step<true>(tile, a, step);
        else make_step<ONE_VERSION>(tile, a, step);
#if $search
        search_line(tile, samples, step);
#endif
        if (!records) continue;
        for (int b = 0; b < width; b++) a.losses[record * a.loss_record + (begin + b) * a.loss_fit] = tile.loss[b];
        record++;
    }
    if (last < a.stop) {
        if (a.watched) {
            look(tile, last);
            EACH_FIT(b) {
                $settle
            }
        }
        settle(tile, a, begin, width);
    }
    store(tile.state, STATE, a.state, a.fits, begin, width);
    if (a.watched) {
        store(tile.state + STATE, SEEN, a.state + STATE * a.fits, a.fits, begin, width);
        store(tile.counts, COUNTS, a.counts, a.fits, begin, width);
    }
}

#ifdef __CUDACC_RTC__
KERNEL void descend(const Arguments* a) {
    const Index begin = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (begin < a->fits) descend_tile(*a, begin);
}
#else
// Subnormal numbers are 0 while fits descend: they would cost a hundred cycles each on some processors. The mode of this
// thread that says so, and its bits.
#if defined(__x86_64__) && !defined(FLUSH_IN_SOFTWARE)
using Mode = unsigned;
constexpr Mode FLUSH = 0x8040;
INLINE Mode read_mode() { return __builtin_ia32_stmxcsr(); }
INLINE void write_mode(Mode mode) { __builtin_ia32_ldmxcsr(mode); }
#elif defined(__aarch64__) && !defined(FLUSH_IN_SOFTWARE)
using Mode = unsigned long long;
constexpr Mode FLUSH = 1ull << 24;
INLINE Mode read_mode() {
    Mode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
INLINE void write_mode(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
using Mode = int;
constexpr Mode FLUSH = 0;
INLINE Mode read_mode() { return 0; }
INLINE void write_mode(Mode) {}
#endif

// The fits from `begin` to `end`.
KERNEL void descend(const Arguments* a, Index begin, Index end) {
    const Mode before = read_mode();
    write_mode(before | FLUSH);
    for (Index b = begin; b < end; b += TILE) descend_tile(*a, b);
    write_mode(before);
}
#endif
