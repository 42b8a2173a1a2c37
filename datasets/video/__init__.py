"""Frames of video files, whatever reads them."""

from datasets.video.frames import probe as probe
from datasets.video.frames import read_frames as read_frames
