"""The C++ compiler that kernels are built with; importable without torch."""

from __future__ import annotations

import os
import shutil


def cxx_compiler() -> str | None:
    """Path of the compiler: the one named by CXX, else g++, else clang++; None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
