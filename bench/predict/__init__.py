"""Output of ``bench.predict``: segment files, subtitles, timeline figures and annotated videos."""
