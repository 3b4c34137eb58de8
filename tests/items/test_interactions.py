"""Interactions: every bad row is told with its line, code in a cell is never run, and the good rows stay."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from holdfast._errors import BadInput
from holdfast.items.catalogue import Interaction
from holdfast.items.interactions import COLUMNS, read
from holdfast.items.literals import LONGEST
from tests.items.shop import shop

HEADER = "user_id,history_item_id,item_id\n"
GOOD = Interaction("ann", ("1", "2"), "3")


def table(folder: Path, text: str, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_rows_need_three_columns_whatever_stands_beside_them(tmp_path: Path) -> None:
    text = 'item_id,more,user_id,history_item_id\n3,?,ann,"[1, 2]"\r\n\r\n4,?,bob,"[\'5\', ""1""]"\n'
    rows = read(table(tmp_path, text), shop())
    assert rows.kept == [GOOD, Interaction("bob", ("5", "1"), "4")]
    assert [row.line for row in rows.kept] == [2, 4]
    assert not rows.faults and not rows.notes


def test_preferences_are_taken_where_there_are_some(tmp_path: Path) -> None:
    rows = read(table(tmp_path, 'user_id,history_item_id,item_id,preference\nann,"[1, 2]",3, a big hat \n'), shop())
    assert rows.kept[0].preference == "a big hat"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ('ann,"[1, 2]"', "it has 2 cells, the header 3"),
        ('ann,"[1, 2]",3,4', "it has 4 cells, the header 3"),
        ('ann,"[1, 9]",3', "the catalogue has no item '9'"),
        ('ann,"[1, 2]",9', "the catalogue has no item '9'"),
        ('ann,"[1, 2]",', "the catalogue has no item ''"),
        ("ann,[],3", "its history is empty"),
        (' ,"[1, 2]",3', "it names no user"),
        ("ann,1,3", "history_item_id cannot be read, for it is no list"),
        ("ann,,3", "history_item_id cannot be read, for it is no list"),
        ("ann,\"[1, '2']\",3", "it mixes numbers and texts"),
        ("ann,[1.0],3", "it is no list"),
        (f"ann,{'[' * 9999}{']' * 9999},3", "it is no list"),
        (f"ann,['{'1' * LONGEST}'],3", f"more than {LONGEST:,}"),
        (f"{'a' * (LONGEST + 1)},[1],3", f"more than {LONGEST:,}"),
        ('ann,"[1, 2]"x,3', "expected after"),
    ],
)
def test_a_bad_row_is_told_with_its_line_and_the_rest_is_read(tmp_path: Path, row: str, why: str) -> None:
    rows = read(table(tmp_path, f'{HEADER}ann,"[1, 2]",3\n{row}\nann,"[1, 2]",3\n'), shop())
    assert rows.kept == [GOOD, GOOD]
    ((file, line, said),) = rows.faults
    assert (Path(file).name, line) == ("rows.csv", 3)
    assert why in said


@pytest.mark.parametrize("column", [name for name in COLUMNS if name.startswith("history")])
@pytest.mark.parametrize(
    "code",
    [
        "__import__('os').system('touch {canary}')",
        "[__import__('os').system('touch {canary}')]",
        "[open('{canary}', 'w') for _ in [1]]",
        "[f'{{open(''{canary}'', ''w'')}}']",
    ],
)
def test_code_in_a_cell_is_never_run(tmp_path: Path, column: str, code: str) -> None:
    canary = tmp_path / "canary"
    cells = dict.fromkeys(COLUMNS, "1") | {
        "history_item_id": "[1]",
        "history_item_title": "['a']",
        "history_item_sid": "['a']",
        column: code.format(canary=canary),
    }
    line = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells.values())
    rows = read(table(tmp_path, f"{','.join(COLUMNS)}\n{line}\n"), shop())
    assert not canary.exists()
    assert not rows.kept and [fault.line for fault in rows.faults] == [2]
    assert f"{column} cannot be read" in rows.faults[0].why


def test_the_line_of_a_row_is_the_one_that_it_begins_in(tmp_path: Path) -> None:
    text = f'{HEADER}"ann\nand bob","[1,\n 2]",3\nann,nonsense,3\n"ann,[1],3\n'
    rows = read(table(tmp_path, text), shop())
    assert [row.line for row in rows.kept] == [2]
    assert [fault.line for fault in rows.faults] == [5, 6]
    assert "unexpected end of data" in rows.faults[1].why


def test_a_row_that_disagrees_with_itself_is_noted(tmp_path: Path) -> None:
    text = ",".join(COLUMNS) + "\nann,['x'],big hat,\"[1, 2]\",3,\"['<a_1><b_1><c_1>', '<a_1>']\",<a_2><b_1><c_10>\n"
    rows = read(table(tmp_path, text), shop())
    assert rows.kept == [GOOD]
    assert [(note.line, note.why[:36]) for note in rows.notes] == [
        (2, "history_item_title has 1 entries, hi"),
        (2, "the sid of item '2' is '<a_1>' here "),
    ]


def test_titles_of_a_history_alone_are_compared_too(tmp_path: Path) -> None:
    rows = read(table(tmp_path, "user_id,history_item_title,history_item_id,item_id\nann,['x'],\"[1, 2]\",3\n"), shop())
    assert len(rows.kept) == 1 and "history_item_title has 1 entries, history_item_id 2" in rows.notes[0].why


@pytest.mark.parametrize("name", ["rows.csv", "rows.train.inter"])
def test_an_empty_file_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"is empty\. Leave"):
        read(table(tmp_path, "", name), shop())
    header = HEADER if name.endswith("csv") else HEADER.replace(",", "\t")
    with pytest.raises(BadInput, match="no row follows its header"):
        read(table(tmp_path, header, name), shop())


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("user_id,item_id", "lacks the columns history_item_id; it has user_id, item_id"),
        ("user_id,item_id,item_id,history_item_id", "two columns of one name"),
        ('"user_id', "header of .* cannot be read"),
    ],
)
def test_a_header_that_will_not_do_says_why(tmp_path: Path, header: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        read(table(tmp_path, f"{header}\nann,1,[1]\n"), shop())


def test_a_wrong_encoding_or_half_a_packed_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(f"{HEADER}Jörg,[1],2\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"not UTF-8.*iconv"):
        read(tmp_path / "rows.csv", shop())
    (tmp_path / "rows.csv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(BadInput, match="not a complete gzip file"):
        read(tmp_path / "rows.csv.gz", shop())


def test_inter_files_have_three_columns_with_tabs_between(tmp_path: Path) -> None:
    lines = ["user_id:token\titem_id_list:token_seq\titem_id:token", "ann\t1 2\t3", '"b\t5  1\t4']
    text = "\n".join([*lines, "ann\t\t3", "ann\t1 9\t3", "ann\t1", ""])
    rows = read(table(tmp_path, text, "rows.test.inter"), shop())
    assert rows.kept == [GOOD, Interaction('"b', ("5", "1"), "4")]
    assert [fault.line for fault in rows.faults] == [4, 5, 6]
    with pytest.raises(BadInput, match="has 2 columns, not user, history and target"):
        read(table(tmp_path, "a\tb\n", "rows.test.inter"), shop())


def test_the_longest_cell_that_others_read_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    read(table(tmp_path, f"{HEADER}ann,[1],2\n"), shop())
    with pytest.raises(BadInput, match="lacks the columns"):
        read(table(tmp_path, "a,b\n", "other.csv"), shop())
    assert csv.field_size_limit() == before
