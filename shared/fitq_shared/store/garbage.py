"""Garbage: what is stored for submissions that are no more, and files that no submission counts.

A killed client or worker can leave such things behind. They harm nobody and take room.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

from fitq_shared.store import keys
from fitq_shared.store.committed import KINDS
from fitq_shared.store.frame_files import FrameFiles, stored_folders
from fitq_shared.store.manifest import Manifest
from fitq_shared.store.reader import Reader

_KEYS_PER_SCAN = 1000
_FILE = re.compile(rf"({'|'.join(KINDS)})-(\d+)-(\d+)\.arrow")


class Garbage(NamedTuple):
    """Keys of the server that nobody needs, and files as URL of their submission's folder and name."""

    keys: list[str]
    files: list[tuple[str, str]]


class GarbageStore(Reader):
    """Finds garbage and removes it.

    Raises, from every method: ServerUnreachable, AccessDenied, ServerRefuses; and ResultsUnreachable where frames are kept
    as files.
    """

    def find(self) -> Garbage:
        """What nobody needs. A submission that is being opened, filled, fitted or deleted loses nothing by it."""
        return Garbage([*self._orphans(), *self._names()], list(self._files()))

    def find_folders(self) -> list[str]:
        """Ids whose folders are under FITQ_RESULTS_URL while no submission of this namespace has them."""
        known = {manifest.id for manifest in self.manifests()}
        return [
            name for name in stored_folders(self.settings.results_url) if keys.is_submission_id(name) and name not in known
        ]

    def remove(self, garbage: Garbage) -> None:
        """Remove what `find` has found."""
        with self._server():
            for start in range(0, len(garbage.keys), _KEYS_PER_SCAN):
                self._redis.unlink(*garbage.keys[start : start + _KEYS_PER_SCAN])
        for url, path in garbage.files:
            FrameFiles(url, path.split("/")[0]).remove_file(path.split("/")[1])

    def remove_folders(self, submissions: Sequence[str]) -> None:
        """Remove what `find_folders` has found."""
        for submission in submissions:
            FrameFiles(self.settings.results_url, submission).remove_all()

    def _orphans(self) -> Iterator[str]:
        """Keys of submissions without a manifest; ids are never given twice, so that none of them comes back."""
        gone: dict[str, bool] = {}
        prefix = f"{self.settings.namespace}:{{"
        for key in self._scan(f"{prefix}*"):
            submission = key.removeprefix(prefix).partition("}")[0]
            if submission not in gone:
                gone[submission] = not self._exists(submission)
            if gone[submission]:
                yield key

    def _names(self) -> Iterator[str]:
        """Names of submissions that are no more."""
        for key in self._scan(keys.named(self.settings.namespace, "*")):
            with self._server():
                holder = cast("bytes | None", self._redis.get(key))
            if holder is not None and not self._exists(holder.decode(errors="replace")):
                yield key

    def _files(self) -> Iterator[tuple[str, str]]:
        """Files of finished submissions that are of no committed attempt: their workers died before they could commit."""
        for manifest in self.manifests():
            if manifest.results_url and manifest.finished:
                yield from ((manifest.results_url, f"{manifest.id}/{name}") for name in self._uncommitted(manifest))

    def _uncommitted(self, manifest: Manifest) -> Iterator[str]:
        committed = self._committed(manifest.id, range(manifest.all_chunks))
        for name in FrameFiles(manifest.results_url, manifest.id).names():
            kind = _FILE.fullmatch(name)
            chunk = committed.get(int(kind[2])) if kind else None
            if chunk is None or kind is None or chunk.attempt != int(kind[3]):
                yield name

    def _exists(self, submission: str) -> bool:
        if not keys.is_submission_id(submission):
            return False
        with self._server():
            return bool(self._redis.exists(self._keys(submission).manifest))

    def _scan(self, pattern: str) -> Iterator[str]:
        with self._server():
            for key in self._redis.scan_iter(pattern, count=_KEYS_PER_SCAN):
                yield key.decode(errors="surrogateescape")
