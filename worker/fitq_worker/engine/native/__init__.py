"""Generated code: torch traces one step of a descent, and what it did is printed as a loop, compiled and called."""
