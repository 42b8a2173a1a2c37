"""Output of ``bench.predict`` for one video: segment files, a timeline figure, an annotated video."""
