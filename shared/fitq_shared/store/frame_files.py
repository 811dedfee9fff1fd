"""Frames of results and traces as files, for results that should outlast Redis or do not fit into its memory."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import pyarrow as pa
from pyarrow import fs

from fitq_shared.errors import ResultsUnreachable
from fitq_shared.masking import hide, mask_url


class FrameFiles:
    """The files of one submission: `<url>/<submission>/<kind>-<chunk>-<attempt>.arrow`.

    `url` is `file:///folder`, `s3://bucket/prefix` or another address that Arrow knows. Redis decides which attempt
    counts: a worker whose attempt was not the first to commit removes its files again, and nobody has read them.

    Raises, from every method: ResultsUnreachable.
    """

    def __init__(self, url: str, submission: str) -> None:
        self._url = url
        with self._translated():
            self._system, root = _opened(url)
        self._folder = f"{root}/{submission}"

    def write(self, kind: str, chunk: int, attempt: int, frame: bytes) -> None:
        """Store a frame, whole or not at all."""
        path = self._path(kind, chunk, attempt)
        with self._translated():
            if isinstance(self._system, fs.S3FileSystem):
                self._put(path, frame)  # an object appears when it is complete, and needs no folder
                return
            unfinished = f"{path}.{secrets.token_hex(4)}"
            self._system.create_dir(self._folder, recursive=True)
            self._put(unfinished, frame)
            self._system.move(unfinished, path)

    def read(self, kind: str, chunk: int, attempt: int) -> bytes | None:
        """A stored frame, None where there is none."""
        with self._translated():
            try:
                with self._system.open_input_file(self._path(kind, chunk, attempt)) as file:
                    found: bytes = file.read()
            except FileNotFoundError:
                return None
        return found

    def remove(self, kind: str, chunk: int, attempt: int) -> None:
        """Remove a stored frame, if it is there."""
        self.remove_file(self._name(kind, chunk, attempt))

    def remove_all(self) -> None:
        """Remove the submission's folder."""
        with self._translated():
            if self._system.get_file_info(self._folder).type != fs.FileType.NotFound:
                self._system.delete_dir(self._folder)

    def check(self) -> None:
        """Return when files can be written and removed here."""
        self.write("check", 0, 0, b"fitq")
        self.remove_all()

    def names(self) -> list[str]:
        """Names of all files, in no order."""
        with self._translated():
            return [info.base_name for info in self._system.get_file_info(self._inside())]

    def remove_file(self, name: str) -> None:
        """Remove a file by its name, if it is there."""
        with self._translated():
            try:
                self._system.delete_file(f"{self._folder}/{name}")
            except FileNotFoundError:
                return

    def size(self) -> int:
        """Bytes of all files."""
        with self._translated():
            return sum(info.size for info in self._system.get_file_info(self._inside()))

    def _inside(self) -> fs.FileSelector:
        return fs.FileSelector(self._folder, allow_not_found=True)

    def _put(self, path: str, frame: bytes) -> None:
        with self._system.open_output_stream(path) as stream:
            stream.write(frame)

    def _path(self, kind: str, chunk: int, attempt: int) -> str:
        return f"{self._folder}/{self._name(kind, chunk, attempt)}"

    def _name(self, kind: str, chunk: int, attempt: int) -> str:
        return f"{kind}-{chunk}-{attempt}.arrow"

    def _translated(self) -> AbstractContextManager[None]:
        return _translated(self._url)


def frame_files(url: str, submission: str) -> FrameFiles | None:
    """The files of a submission; None where `url` is empty and its frames are in Redis."""
    return FrameFiles(url, submission) if url else None


def stored_folders(url: str) -> list[str]:
    """Names of the folders under a URL, one for each submission that keeps files there; none where `url` is empty.

    Raises:
        ResultsUnreachable: it cannot be read.
    """
    if not url:
        return []
    with _translated(url):
        system, root = _opened(url)
        found = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ResultsUnreachable(
            f"results at {mask_url(url)} cannot be reached ({hide(error, url)}): check FITQ_RESULTS_URL, its credentials "
            "and the space there"
        ) from None


@cache
def _opened(url: str) -> tuple[fs.FileSystem, str]:
    system, root = fs.FileSystem.from_uri(url)
    return system, root.rstrip("/")
