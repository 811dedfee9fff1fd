"""Fuzzing guided by coverage, with atheris: `python tests/fuzz/fuzz.py frames` (or `jsonl`), then libFuzzer's own options.

Anything but rows or one of fitq's errors is a finding: its bytes are written to tests/data/fuzz, where a test reads them
from then on. What leads to new paths is kept in .fuzz, from which the next run goes on.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fitq", "fitq_shared"]):
    from fitq.readers import from_file
    from fitq.submitting.planner import plan
    from fitq_shared.errors import FitqError
    from fitq_shared.jobs.frame_rules import check_jobs
    from fitq_shared.jobs.frames import decode
    from fitq_shared.jobs.result_rules import check_results, check_traces
    from fitq_shared.jobs.rows import Rows
    from fitq_shared.jobs.schemas import JOB_SCHEMA, RESULT_SCHEMA, SETS_SCHEMA, TRACE_SCHEMA

ROOT = Path(__file__).parents[2]
FILE = Path(tempfile.mkdtemp()) / "jobs.jsonl"
LINE = b'{"id": "a", "x": [0, 1.5, null], "y": [1, 2, NaN], "weights": [1, 0, 1], "degree": 1, "tags": {"site": "A"}}\n'
DRAWN = b'{"polynomial": [1, 2, 3], "samples": {"count": 5, "noise": 0.1}, "loss": "huber", "init": "exact", "seed": 3}\n'


def read_frame(data: bytes) -> None:
    """Decode as who needs it does: the first byte chooses the kind."""
    kind, frame = data[:1], data[1:]
    with contextlib.suppress(FitqError):
        if kind == b"t":
            check_traces(decode(frame, TRACE_SCHEMA))
        elif kind == b"r":
            check_results(decode(frame, RESULT_SCHEMA))
        elif kind == b"s":
            decode(frame, SETS_SCHEMA)
        elif len(jobs := decode(frame, JOB_SCHEMA)):
            check_jobs(Rows(jobs))


def read_jsonl(data: bytes) -> None:
    """Read a file to its end; a worker accepts every chunk that a client makes of it."""
    FILE.write_bytes(data)
    with contextlib.suppress(FitqError):
        for rows in plan(from_file(FILE)):
            check_jobs(rows)


TARGETS = {"frames": read_frame, "jsonl": read_jsonl}


def _seed(corpus: Path, target: str) -> None:
    stored = sorted((ROOT / "tests" / "data" / "frames").glob("*.arrow"))
    frames = {path.stem: path.name[:1].encode() + path.read_bytes() for path in stored}
    for name, data in (frames if target == "frames" else {"line": LINE, "lines": LINE + DRAWN}).items():
        (corpus / name).write_bytes(data)


def main(target: str, *options: str) -> None:
    """Fuzz one of TARGETS until libFuzzer ends, by a finding or `-max_total_time`."""
    corpus, findings = ROOT / ".fuzz" / target, ROOT / "tests" / "data" / "fuzz" / target
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    _seed(corpus, target)
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-artifact_prefix={findings}{os.sep}",
        "-timeout=30",
        "-rss_limit_mb=4096",
        *options,
    ]
    atheris.Setup(arguments, TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
