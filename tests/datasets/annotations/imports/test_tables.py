"""Tables: names of columns, units, ways to write times, durations, and one line for what is wrong."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.io.errors import InputError
from datasets.annotations.formats import read_file
from datasets.annotations.imports.columns import guess_columns
from datasets.annotations.imports.database import ImportOptions
from datasets.annotations.imports.times import seconds_of
from datasets.annotations.reader import read_annotations

sys.path.append(str(Path(__file__).parent))
from test_samples import instances, written

WAVE = {"a": [(61.5, 63, "wave")]}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12", 12),
        ("12.5", 12.5),
        ("12,5", 12.5),
        (" .5 ", 0.5),
        ("1e1", 10),
        ("-1.5", -1.5),
        ("1:02", 62),
        ("75:00", 4500),
        ("01:02.5", 62.5),
        ("0:01:02.250", 62.25),
        ("00:01:02,250", 62.25),
        ("1:75", None),
        ("1:60:00", None),
        ("1:2:3:4", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("", None),
        ("two", None),
        ("1 2", None),
        ("9" * 400 + ":00", None),
    ],
)
def test_times_are_read_as_people_write_them(text, seconds):
    assert seconds_of(text) == seconds


@given(st.integers(0, 360_000_000), st.sampled_from([".", ","]))
def test_clock_times_equal_their_seconds(milliseconds, point):
    rest, ms = divmod(milliseconds, 1000)
    minutes, seconds = divmod(rest, 60)
    hours, minutes_left = divmod(minutes, 60)
    wanted = pytest.approx(milliseconds / 1000, abs=1e-9)
    assert seconds_of(f"{hours}:{minutes_left:02}:{seconds:02}{point}{ms:03}") == wanted
    assert seconds_of(f"{minutes}:{seconds:02}{point}{ms:03}") == wanted
    assert seconds_of(f"{rest}{point}{ms:03}") == wanted


@pytest.mark.parametrize(
    "table",
    [
        "video,start,end,label\na,61.5,63,wave\n",
        "\ufeffVideo ID,Start Time (s),End Time (s),Class\r\na.mp4,1:01.5,1:03,wave\r\n",
        "file_name;t_start;t_end;activity\nfilms/a.MP4;61,5;63;wave\n",
        "label\tt-start\tt-end\tvideo-name\nwave\t00:01:01.500\t00:01:03\ta\n",
        "Filename|Onset|Offset|Behavior\nC:\\films\\a.avi|61.5|63|wave\n",
        "video,start_ms,end_ms,label\na,61500,63000,wave\n",
        "video,startTime,duration,action\na,61.5,1.5,wave\n",
        "Media file name,Behavior,Start (s),Stop (s)\na.mp4,wave,61.5,63\n",
        "File Name\tBegin Time - ss.msec\tEnd Time - ss.msec\tAnnotation\na\t61.5\t63\twave\n",
        "Path\tBegin Time - hh:mm:ss.ms\tEnd Time - hh:mm:ss.ms\tAnnotation\na\t00:01:01.5\t0:01:03\twave\n",
        # EPIC-Kitchens has timestamps and frames: the timestamps are read.
        "video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,verb\na,0:01:01.5,0:01:03,9,9,wave\n",
        "a,61.5,63,wave\n",
    ],
)
def test_columns_are_guessed_and_said(tmp_path, table):
    file = read_file(written(tmp_path, "segments", table))
    assert (file.kind, instances(file)) == ("table", WAVE)
    assert "columns taken: video = " in file.notes[0]


def test_the_guess_is_said_in_words(tmp_path):
    file = read_file(written(tmp_path, "x.csv", "Clip,Begin ms,End ms,Tag,Split\na,61500,63000,wave,test\n"))
    assert file.notes == (
        "columns taken: video = 'Clip', start = 'Begin ms' (milliseconds), end = 'End ms' (milliseconds), "
        "label = 'Tag', subset = 'Split'",
    )
    assert file.database["a"]["subset"] == "test"
    assert read_file(written(tmp_path, "y.csv", "a,61.5,63,wave\n")).notes[0] == (
        "no header, columns taken: video = 1, start = 2, end = 3, label = 4"
    )


@pytest.mark.parametrize(
    "header", ["start,end,label", "video,start,label", "video,end,label", "video,start,end"]
)
def test_a_table_without_a_needed_column_is_none_of_segments(tmp_path, header):
    assert guess_columns(header.split(",")) is None
    path = written(tmp_path, "x.csv", f"{header}\n" + ",".join("1" * len(header.split(","))) + "\n")
    with pytest.raises(InputError, match="no format is recognised"):
        read_file(path)


def test_frames_need_a_rate_of_the_options_or_the_row(tmp_path):
    frames = written(tmp_path, "x.csv", "video,start_frame,end_frame,label\na,1845,1890,wave\n")
    with pytest.raises(
        InputError, match="its times are frame numbers and it has no rate: give it as python -m"
    ):
        read_file(frames)
    assert instances(read_file(frames, options=ImportOptions(fps=30))) == WAVE
    own = "video,frame start,frame end,label,fps\na,1845,1890,wave,30\nb,10,20,wave,10\n"
    assert instances(read_file(written(tmp_path, "y.csv", own))) == {**WAVE, "b": [(1, 2, "wave")]}
    with pytest.raises(InputError, match="line 2: fps: got 0, more than 0 is needed"):
        read_file(written(tmp_path, "z.csv", own.replace("wave,30", "wave,0")))


def test_a_duration_beside_start_and_end_is_the_videos_or_the_segments(tmp_path):
    text = "video,start,end,label,duration\na,61.5,63,wave,{}\na,5,6.5,wave,{}\n"
    video = read_file(written(tmp_path, "video.csv", text.format(90, 90))).database["a"]
    assert video["duration"] == 90
    segment = read_file(written(tmp_path, "segment.csv", text.format(1.5, 1.5))).database["a"]
    assert "duration" not in segment
    neither = read_file(written(tmp_path, "neither.csv", text.format(40, 40)))
    assert "duration" not in neither.database["a"]
    assert "the column of durations is not read: it is neither end - start nor the video's" in neither.notes
    named = text.replace("duration", "video_duration").format(90, "1:30")
    assert read_file(written(tmp_path, "named.csv", named)).database["a"]["duration"] == 90
    dataset = read_annotations(written(tmp_path / "alone", "named.csv", named))
    assert dataset.videos[0].duration == 90
    with pytest.raises(InputError, match="line 3: video: 'a' lasts 90 s and 91 s"):
        read_file(written(tmp_path, "differ.csv", named.replace("1:30", "91")))


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("a,x,63,wave,", "^x.csv: line 3: start: got 'x', allowed are seconds, mm:ss or hh:mm:ss.ms"),
        ("a,1,,wave,", "^x.csv: line 3: end: missing"),
        ("a,1,2,,", "^x.csv: line 3: label: missing"),
        (",1,2,wave,", "^x.csv: line 3: video: got '', a video's id or file name is needed"),
        ("b/a.mp4,1,2,wave,", "^x.csv: line 3: video: 'a' and 'b/a.mp4' have one id"),
        ("a,1,2,wave,test", "^x.csv: line 3: video: 'a' is in subset 'all' and 'test'"),
        ('a,1,2,"wave', "^x.csv: cannot be read as a table: unexpected end of data"),
    ],
)
def test_a_wrong_row_is_one_line(tmp_path, row, line):
    path = written(tmp_path, "x.csv", f"video,start,end,label,subset\na,61.5,63,wave,\n{row}\n")
    with pytest.raises(InputError, match=line) as caught:
        read_file(path)
    assert len(str(caught.value).splitlines()) == 1


def test_excels_unicode_text_is_read_and_other_encodings_are_refused(tmp_path):
    text = "video\tstart\tend\tlabel\na\t61.5\t63\twävé\n"
    assert instances(read_file(written(tmp_path, "x.txt", text.encode("utf-16")))) == {
        "a": [(61.5, 63, "wävé")]
    }
    with pytest.raises(InputError, match=r"^x.csv: not text in UTF-8$"):
        read_file(written(tmp_path, "x.csv", text.encode("latin-1")))


def test_an_annotation_table_is_no_table_of_durations(tmp_path):
    """Else the length of its last row would be the duration of each video."""
    written(tmp_path, "train.csv", "video,start,duration,label\nb,0,1.5,wave\n")
    written(tmp_path, "facts.csv", "video,duration\nb,20\n")
    path = written(tmp_path, "test.csv", "video,start,duration,label\nb,2,1.5,wave\n")
    assert read_annotations(path).videos[0].duration == 20


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "video,start,end,label\na,1,2,w\n\na,1,5,2,5,w\n",
            "line 4: 6 cells, the first line has 4: a cell w",
        ),
        ("video,start,end,label,\na,1,5,2,5,w\n", "line 2: 6 cells, the first line has 4"),
        ("a,1,2,w\nb,1,5,2,w\n", "line 2: 5 cells, the first line has 4"),
        ("sep=,\n# by hand\nvideo,start,end,label\na,1,5,2,5,w\n", "line 4: 6 cells, the first line has 4"),
    ],
)
def test_more_cells_than_the_header_are_refused(tmp_path, text, line):
    with pytest.raises(InputError, match=f"^x.csv: {line}"):
        read_file(written(tmp_path, "x.csv", text))


def test_empty_cells_after_the_last_column_are_nothing(tmp_path):
    text = "video,start,end,label,,\na,61.5,63,wave,,\na.mp4,,,,,,,\n"
    assert instances(read_file(written(tmp_path, "x.csv", text))) == WAVE


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("video,start_min,start_sec,end_min,end_sec,label", "'start_min' and 'start_sec'"),
        ("video,startHour,start,endHour,end,label", "'startHour' and 'start'"),
        (
            "video,start (h),start (m),start (s),end (h),end (m),end (s),label",
            r"'start \(h\)' and 'start \(s\)'",
        ),
        ("video,start,duration_min,duration_sec,label", "'duration_min' and 'duration_sec'"),
    ],
)
def test_a_time_in_two_columns_is_refused(tmp_path, header, names):
    row = ",".join("1" * len(header.split(",")))
    with pytest.raises(InputError, match=f"^x.csv: columns: {names}: a time is needed in one column"):
        read_file(written(tmp_path, "x.csv", f"{header}\n{row}\n"))


def test_minutes_alone_are_not_taken_for_seconds(tmp_path):
    path = written(tmp_path, "x.csv", "video,start (min),end (min),label\na,1,2,w\n")
    with pytest.raises(
        InputError, match=r"the file's first line has 'video', 'start \(min\)', 'end \(min\)', 'l"
    ):
        read_file(path)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("video,start_ms,duration,label\na,61500,1500,wave\n", None),
        ("video,start_frame,length,label\na,615,15,wave\n", None),
        ("video,start_frame,duration_sec,label\na,615,1.5,wave\n", None),
        ("video,start_ms,duration_s,label\na,61500,1.5,wave\n", None),
        ("video,start_ms,end_ms,video_duration,label\na,61500,63000,90000,wave\n", 90),
        ("video,start_frame,end_frame,video_duration,label\na,615,630,900,wave\n", 90),
        ("video,start_frame,end_frame,video_duration,label\na,615,630,1:30,wave\n", 90),
        ("video,start_frame,end_frame,video_duration_s,label\na,615,630,90,wave\n", 90),
        ("video,first_frame,last_frame,label\na,615,630,wave\n", None),
    ],
)
def test_a_length_without_a_unit_has_that_of_the_start(tmp_path, text, duration):
    file = read_file(written(tmp_path, "x.csv", text), options=ImportOptions(fps=10))
    assert (instances(file), file.database["a"].get("duration")) == (WAVE, duration)


def test_a_clock_time_is_no_frame_number(tmp_path):
    path = written(tmp_path, "x.csv", "video,start_frame,end_frame,label\na,1:02,70,wave\n")
    with pytest.raises(InputError, match="line 2: start: got '1:02', a frame number is needed"):
        read_file(path, options=ImportOptions(fps=10))


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\nvideo;start;end;label\r\na;61,5;63;wave\r\n",
        '"sep=\t"\nvideo\tstart\tend\tlabel\na\t61.5\t63\twave\n',
        "# written by hand, in May\n#\n\nvideo,start,end,label\na,61.5,63,wave\n",
        "# video,start,end,label\na,61.5,63,wave\n",
        "#label,start,end,video\nwave,61.5,63,a\n",
        '"#file:///a.eaf"\nvideo\tstart\tend\tlabel\na\t61.5\t63\twave\n',
    ],
)
def test_lines_above_the_header_are_passed_over(tmp_path, text):
    assert instances(read_file(written(tmp_path, "x.csv", text))) == WAVE
    written(tmp_path / "folder", "x.csv", text)
    assert instances(read_file(tmp_path / "folder")) == WAVE


@pytest.mark.parametrize(("first", "second"), [("t0.mp4", "t0.avi"), ("x/t0.mp4", "x/t0.AVI")])
def test_two_files_of_one_name_are_not_one_video(tmp_path, first, second):
    rows = f"video,start,end,label\n{first},1,2,w\n{second},3,4,w\n"
    with pytest.raises(InputError, match=f"line 3: video: '{first}' and '{second}' have one id"):
        read_file(written(tmp_path, "x.csv", rows))


def test_an_id_with_and_without_a_suffix_is_one_video(tmp_path):
    rows = "video,start,end,label\nt0,1,2,w\nt0.mp4,1,2,x\nt0.MP4,3,4,w\n"
    path = written(tmp_path, "x.csv", rows)
    assert instances(read_file(path)) == {"t0": [(1, 2, "w"), (1, 2, "x"), (3, 4, "w")]}
    with pytest.raises(InputError, match=r"line 5: video: 't0.mp4' and 't0.avi' have one id"):
        read_file(written(tmp_path, "y.csv", rows + "t0.avi,5,6,w\n"))
