"""What ``bench.predict`` writes of one video: files of segments, a picture, a video with labels."""
