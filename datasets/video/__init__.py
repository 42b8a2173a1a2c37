"""Reading of frames from video files."""

from datasets.video.frames import probe as probe
from datasets.video.frames import read_frames as read_frames
