"""The clips of many videos, in memory or read from files, and a digest of their pictures."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from bench.config.protocol import Protocol
from bench.data.clips import Clips, FileClips, file_clips, parts
from bench.data.feature_clips import all_feature_clips
from bench.data.frame_loader import FrameLoader
from bench.models.backbone import BackboneGeometry
from datasets.annotations.dataset import Dataset, Video

DIGEST_VIDEOS = 256
"""Largest number of videos of a subset whose pictures are part of a record's digest."""


@dataclasses.dataclass(frozen=True)
class FrameStore:
    """The clips of some videos by video id."""

    videos: Mapping[str, Video]
    clips: Mapping[str, Clips]
    ahead: int = 0
    """Number of windows to prefetch; 0 if all frames are in memory."""

    def expect(self, wanted: list[tuple[str, int, int]]) -> None:
        """Prefetch parts (video, first, last) in the order of use; earlier prefetches are cancelled."""
        found = [(self.clips[name], first, last) for name, first, last in wanted]
        files = [(clips, first, last) for clips, first, last in found if isinstance(clips, FileClips)]
        if files:
            files[0][0].loader.expect(files)


def open_store(
    dataset: Dataset,
    subset: str,
    protocol: Protocol,
    geometry: BackboneGeometry,
    loader: FrameLoader,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FrameStore:
    """Return the clips of a subset's videos, decoded at once if all of them fit into the loader's cache.

    Those of a data set of features are read from files when they are used. Raises InputError that names a
    file which is missing or, if decoded at once, cannot be read.
    """
    videos = {video.id: video for video in dataset.subset(subset)}
    if dataset.features:
        return FrameStore(videos, all_feature_clips(dataset, videos.values(), protocol))
    clips = {name: file_clips(dataset, video, protocol, geometry, loader) for name, video in videos.items()}
    if sum(each.count * each.clip_bytes for each in clips.values()) > loader.cache_bytes:
        return FrameStore(videos, clips, loader.workers)
    for number, each in enumerate(clips.values()):
        for first, last in parts(each):
            loader.part(each, first, last)
        progress(number + 1, len(videos))
    return FrameStore(videos, clips)


def pictures_sha256(
    store: FrameStore, progress: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """Return the SHA-256 of a sample of a store's pictures, as decoded, resized and passed to a backbone.

    It covers every video, or at most DIGEST_VIDEOS evenly spaced ones: the id, and the clips
    at 1/6, 1/2 and 5/6 of the video. It is the same whether frames are in memory or decoded on demand.
    """
    names = sorted(store.clips)
    names = names[:: -(-len(names) // DIGEST_VIDEOS)]
    sample = {name: sorted({store.clips[name].count * sixths // 6 for sixths in (1, 3, 5)}) for name in names}
    digest = hashlib.sha256()
    for done, name in enumerate(names):
        soon = names[done : done + 1 + store.ahead]
        store.expect([(other, number, number + 1) for other in soon for number in sample[other]])
        digest.update(name.encode())
        for number in sample[name]:
            digest.update(np.ascontiguousarray(store.clips[name].part(number, number + 1)).data)
        progress(done + 1, len(names))
    return digest.hexdigest()
