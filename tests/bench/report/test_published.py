"""Published numbers: that the files hold what papers print, and where measured rows may stand beside them."""

import csv
import io

import pytest
from made_records import record

from bench.io.errors import InputError
from bench.io.tables import escape_latex
from bench.report.tables import comparison as tables
from bench.report.tables import published
from bench.report.tables.published import SHIPPED, contents, read_published, read_table

SHIPPED_TABLES = {table.name: table for table in read_published(SHIPPED, [])}


def test_values_that_the_papers_print():
    losa = SHIPPED_TABLES["losa"].rows
    assert [(row["method"], row["average mAP"]) for row in losa] == [
        ("head-only", "69.6"),
        ("LoSA", "71.0"),
        ("LoSA", "38.6"),
    ]
    hacs = [
        row["average mAP"]
        for name in ("lofi_t1_pretraining", "lofi_t2_configurations", "lofi_t3_t4_systems")
        for row in SHIPPED_TABLES[name].rows
        if row["note"]
    ]
    assert hacs == ["24.62", "24.64", "24.64"], "the paper disagrees with itself; each as in its table"


def test_adatad_s_best_epoch_stands_above_its_last():
    rows = [row for row in SHIPPED_TABLES["adatad"].rows if row["method"] == "AdaTAD" and row["average mAP"]]
    lasts = [index for index, row in enumerate(rows) if row["epoch"] == "last"]
    pairs = [(rows[index - 1], rows[index]) for index in lasts]
    assert [(best["average mAP"], last["average mAP"]) for best, last in pairs] == [
        *(("71.14", "70.67"), ("73.51", "73.50"), ("75.06", "73.87")),
        *(("38.35", "38.31"), ("39.21", "39.18"), ("39.77", "39.20")),
    ]
    for best, last in pairs:
        assert best["epoch"] == "best on test"
        assert all(best[name] == last[name] for name in ("backbone", "dataset", "protocol"))
    assert all(row["epoch"] for row in rows)


def test_rows_of_other_strategies():
    rows = {
        (row["method"], row["backbone"], row["dataset"], row["average mAP"], row["epoch"])
        for row in SHIPPED_TABLES["landscape"].rows
    }
    assert {
        ("ETAD", "R(2+1)D-34", "ActivityNet-1.3", "38.25", "last"),
        ("SV-TAD", "ViT-B", "THUMOS-14", "72.44", ""),
        ("ViT-TAD", "ViT-B", "THUMOS-14", "69.5", ""),
        ("control", "Swin-T", "ActivityNet-1.3", "36.89", ""),
        ("DyLoRA-TAD", "", "", "", ""),
    } <= rows


def test_averages_over_the_printed_thresholds_agree():
    """THUMOS averages are the mean of five printed values, so that a misprint would show."""
    for table in SHIPPED_TABLES.values():
        for row in table.rows:
            values = [row.get(f"mAP@{tiou}", "") for tiou in ("0.3", "0.4", "0.5", "0.6", "0.7")]
            if all(values):
                mean = sum(map(float, values)) / 5
                assert float(row["average mAP"]) == pytest.approx(mean, abs=0.06), row


def test_gains_of_encoders_follow_from_their_rows():
    rows = SHIPPED_TABLES["lofi_t5_t6_encoders"].rows
    for before, after in zip(rows[::2], rows[1::2], strict=True):
        gain = float(after["average mAP"]) - float(before["average mAP"])
        assert float(after["gain"]) == pytest.approx(gain, abs=0.006), after


def thumos(variant="212", subset="test", tiou=(0.3, 0.4, 0.5, 0.6, 0.7), **changes):
    values = {f"{each:g}": 0.5 for each in tiou}
    made = record("losa", dataset={"name": "thumos14", "variant": variant, "annotation_sha256": "a" * 64})
    made["protocol"] |= {"tiou": list(tiou), "evaluation_subset": subset}
    return made | {"metrics": {"map": values, "map_average": 0.5}}


def kinds(*records):
    [table] = [SHIPPED_TABLES["losa"]]
    text = contents([table], tables.comparisons(records))["published_losa.csv"]
    return [(row["kind"], row["average mAP"]) for row in csv.DictReader(io.StringIO(text))]


def test_measured_rows_stand_beside_only_where_data_and_protocol_allow():
    assert ("measured", "50.00") in kinds(thumos())
    assert kinds(thumos())[-1] == ("published", "38.6"), "the ActivityNet section follows"
    for other in (
        record(),
        thumos(subset="tuning"),
        thumos(tiou=(0.3, 0.5)),
        thumos(variant="212, 3 missing (0123abcd)"),
    ):
        assert [kind for kind, _ in kinds(other)] == ["published"] * 3


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("copied", "guessed", "grade"),
        ("71.0", "171.0", "average mAP"),
        ("71.0,", "71.0,lucky", "epoch"),
        ("132,", "", ""),
    ],
)
def test_a_wrong_file_is_named(tmp_path, old, new, field):
    path = tmp_path / "mine.csv"
    path.write_text((SHIPPED / "losa.csv").read_text().replace(old, new))
    with pytest.raises(InputError, match=f"mine.csv: line 3.*{field}"):
        read_table(path)


def test_missing_columns_are_named(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("method,backbone\na,b\n")
    with pytest.raises(InputError, match="column 'dataset' is missing"):
        published.read_table(path)


def test_latex_has_no_bare_signs():
    assert escape_latex(r"50 % of a_b & {c} ± ~^\ #1 $") == (
        r"50 \% of a\_b \& \{c\} $\pm$ \textasciitilde{}\textasciicircum{}\textbackslash{} \#1 \$"
    )


def test_a_folder_without_published_numbers_gets_those_that_its_runs_may_stand_beside(tmp_path):
    assert read_published(tmp_path, tables.comparisons([record()])) == []
    names = [table.name for table in read_published(tmp_path, tables.comparisons([thumos()]))]
    assert names == ["adatad", "landscape", "losa"]
