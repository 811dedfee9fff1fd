// A function of numbers of each fit, printed from torch's trace of it. Arrays have the batch as last axis.
using Index = long long;

$prelude

extern "C" void compute(Index fits, const void* const* given, void* const* found) {
    $pointers
    _Pragma("GCC ivdep") for (Index b = 0; b < fits; b++) {
        $lines
    }
}
