// Functions in the text of expressions.
INLINE float root(float x) { return __builtin_sqrtf(x); }
INLINE double root(double x) { return __builtin_sqrt(x); }
INLINE float absolute(float x) { return __builtin_fabsf(x); }
INLINE double absolute(double x) { return __builtin_fabs(x); }
template <class Real> INLINE Real sign(Real x) { return x > 0 ? Real(1) : x < 0 ? Real(-1) : Real(0); }
