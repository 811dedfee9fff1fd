// What the text of expressions.py calls, for a core of a CPU and for a thread of a GPU.
#ifdef __CUDACC_RTC__
#define INLINE __device__ __forceinline__
INLINE float root(float x) { return sqrtf(x); }
INLINE double root(double x) { return sqrt(x); }
INLINE float absolute(float x) { return fabsf(x); }
INLINE double absolute(double x) { return fabs(x); }
#else
#define INLINE inline __attribute__((always_inline))
INLINE float root(float x) { return __builtin_sqrtf(x); }
INLINE double root(double x) { return __builtin_sqrt(x); }
INLINE float absolute(float x) { return __builtin_fabsf(x); }
INLINE double absolute(double x) { return __builtin_fabs(x); }
#endif

template <class Real> INLINE Real sign(Real x) { return x > 0 ? Real(1) : x < 0 ? Real(-1) : Real(0); }

// A number whose arithmetic gives 0 for what would be subnormal: CPUs do so by themselves, a GPU with float alone.
template <class Real> struct Normal {
    Real value;

    Normal() = default;
    INLINE Normal(Real x) : value(x) {}
    INLINE static Normal flush(Real x) {
        constexpr Real least = sizeof(Real) == 4 ? Real(1.17549435082228751e-38) : Real(2.2250738585072014e-308);
        return absolute(x) < least ? x * Real(0) : x;
    }
    friend INLINE Normal operator+(Normal a, Normal b) { return flush(a.value + b.value); }
    friend INLINE Normal operator-(Normal a, Normal b) { return flush(a.value - b.value); }
    friend INLINE Normal operator*(Normal a, Normal b) { return flush(a.value * b.value); }
    friend INLINE Normal operator/(Normal a, Normal b) { return flush(a.value / b.value); }
    friend INLINE Normal operator-(Normal a) { return -a.value; }
    friend INLINE bool operator<(Normal a, Normal b) { return a.value < b.value; }
    friend INLINE bool operator<=(Normal a, Normal b) { return a.value <= b.value; }
    friend INLINE bool operator>(Normal a, Normal b) { return a.value > b.value; }
    friend INLINE bool operator>=(Normal a, Normal b) { return a.value >= b.value; }
    friend INLINE bool operator==(Normal a, Normal b) { return a.value == b.value; }
    friend INLINE bool operator!=(Normal a, Normal b) { return a.value != b.value; }
    INLINE Normal& operator+=(Normal b) { return *this = *this + b; }
    friend INLINE Normal root(Normal x) { return root(x.value); }
    friend INLINE Normal absolute(Normal x) { return absolute(x.value); }
};

#if defined(FLUSH_IN_SOFTWARE)
using float32 = Normal<float>;
using float64 = Normal<double>;
#elif defined(__CUDACC_RTC__)
using float32 = float;
using float64 = Normal<double>;
#else
using float32 = float;
using float64 = double;
#endif
