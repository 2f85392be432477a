"""Import: every format gives the same version; an invalid file is rejected with the cause, unimported."""

import csv
import json
import os
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.recommender import KINDS
from services.adapters.files.data_store import ParquetDataStore
from services.data_import import online_retail
from services.data_import.app import ImportRequest, import_data, parse_time
from services.data_import.title_categories import categories, title
from services.data_import.validation_error import FileValidationError
from services.errors import BadInputError, ConfigurationError
from services.ports.catalogue import CatalogueProvenance
from services.settings import Settings

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
HEADER = ("Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country")
FIRST = datetime.fromisoformat("2010-11-30T09:00")  # as the file writes times: without a zone
OVERLAP = datetime.fromisoformat("2010-12-01T10:00")
LAST = datetime.fromisoformat("2011-03-01T10:00")
SHEETS = {
    "Year 2009-2010": [
        (489434, 85048, "PINK CAKE TINS", 12, FIRST, 6.95, 13085, "United Kingdom"),
        (489434, "79323P", "WHITE CAKE TINS", 1, FIRST, 5.0, 13085, "United Kingdom"),
        (489435, 85048, "PINK CAKE TINS", 1, FIRST, 6.95, None, "France"),
        ("C489436", 85048, "PINK CAKE TINS", -1, FIRST, 6.95, 13085, "United Kingdom"),
        (489437, "POST", "POSTAGE", 1, FIRST, 18.0, 13085, "United Kingdom"),
        (489438, 21232, "ROUND CAKE TIN", 2, OVERLAP, 1.25, 13086, "France"),
        (489438, 21233, "CARD HOLDER ", 2, OVERLAP, 1.25, 13086, "France"),
    ],
    "Year 2010-2011": [
        (489438, 21232, "ROUND CAKE TIN", 2, OVERLAP, 1.25, 13086, "France"),
        (489438, 21233, "CARD HOLDER", 2, OVERLAP, 1.25, 13086, "France"),
        (489439, 21232, "RED ROUND CAKE TIN", 3, LAST, 1.5, 13085, "United Kingdom"),
    ],
}
DROPPED = {
    "no_customer": 1,
    "cancelled": 1,
    "not_positive": 0,
    "duplicate": 1,
    "duplicate_but_blanks": 1,
    "not_a_product": 1,
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def as_xlsx(folder: Path) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in SHEETS.items():
        sheet = book.create_sheet(name)
        for row in (HEADER, *rows):
            sheet.append(row)
    book.save(folder / "online_retail_II.xlsx")
    return folder / "online_retail_II.xlsx"


def as_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "online+retail+ii.zip", "w") as archive:
        archive.write(as_xlsx(folder), "online_retail_II.xlsx")
    return folder / "online+retail+ii.zip"


def all_rows() -> list[tuple]:
    return [row for rows in SHEETS.values() for row in rows]


def as_csv(folder: Path) -> Path:
    with (folder / "retail.csv").open("w", newline="", encoding="latin-1") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for row in all_rows():
            customer = "" if row[6] is None else f"{row[6]}.0"  # as pandas writes a column with gaps
            writer.writerow([*row[:6], customer, row[7]])
    return folder / "retail.csv"


def as_parquet(folder: Path) -> Path:
    columns = dict(zip(HEADER, zip(*all_rows(), strict=True), strict=True))
    columns = {
        k: [str(v) for v in vs] if k in ("Invoice", "StockCode") else list(vs) for k, vs in columns.items()
    }
    pq.write_table(pa.table(columns), folder / "retail.parquet")
    return folder / "retail.parquet"


@pytest.mark.parametrize("write", [as_xlsx, as_zip, as_csv, as_parquet])
def test_every_kind_of_file_gives_the_same_version(write, settings, tmp_path) -> None:
    reference = import_data(Settings(home=tmp_path / "other"), ImportRequest(str(as_csv(tmp_path))), NOW)
    manifest = import_data(settings, ImportRequest(str(write(tmp_path))), NOW)
    assert manifest["version"] == reference["version"]
    assert {rule["name"]: rule["dropped"] for rule in manifest["rules"]} == DROPPED
    assert manifest["counts"] == {"items": 4, "users": 2, "interactions": 5}


def test_dropped_and_kept_rows_add_up(settings, tmp_path) -> None:
    rules = import_data(settings, ImportRequest(str(as_csv(tmp_path))), NOW)["rules"]
    left = len(all_rows())
    for rule in rules:
        left -= rule["dropped"]
        assert rule["left"] == left


def test_what_was_imported_comes_back_as_arrays(settings, tmp_path) -> None:
    import_data(settings, ImportRequest(str(as_xlsx(tmp_path))), NOW)
    data = ParquetDataStore(settings.data_path).load()
    assert data.catalogue.items.tolist() == ["21232", "21233", "79323P", "85048"]
    assert data.catalogue.title.tolist() == [
        "Red Round Cake Tin",
        "Card Holder",
        "White Cake Tins",
        "Pink Cake Tins",
    ]
    assert data.catalogue.category.tolist() == ["tin", "holder", "tin", "tin"]
    assert data.catalogue.price[3] == np.float32(6.95)
    lines = data.interactions
    assert (np.diff(lines.at) >= 0).all()
    assert lines.at[0] == FIRST.replace(tzinfo=UTC).timestamp()
    assert lines.users[lines.user].tolist() == ["13085", "13085", "13086", "13086", "13085"]
    assert set(lines.kind.tolist()) == {KINDS.index("purchase")}
    assert lines.user.dtype == np.int32
    assert lines.quantity.dtype == np.float32


def test_a_bad_value_is_named_and_nothing_is_imported(settings, tmp_path) -> None:
    path = as_csv(tmp_path)
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace("2010-11-30 09:00:00", "yesterday")
    lines[5] = lines[5].replace(",1,", ",1.5,")
    path.write_text("\n".join(lines))
    with pytest.raises(FileValidationError, match="column 'InvoiceDate', row 4: 'yesterday' breaks the rule"):
        import_data(settings, ImportRequest(str(path)), NOW)
    path.write_text("\n".join(line.replace("yesterday", "2010-11-30 09:00:00") for line in lines))
    with pytest.raises(FileValidationError) as refused:
        import_data(settings, ImportRequest(str(path)), NOW)
    assert [(f.column, f.row, f.rule) for f in refused.value.invalid] == [
        ("Quantity", 6, "is a whole number")
    ]
    assert not settings.data_path.exists()


def test_a_workbook_names_the_sheet_of_a_bad_value(settings, tmp_path) -> None:
    path = as_xlsx(tmp_path)
    book = openpyxl.load_workbook(path)
    book["Year 2010-2011"]["B3"] = None
    book.save(path)
    with pytest.raises(
        FileValidationError, match="column 'StockCode', Year 2010-2011, row 3: 'None' breaks .*is present"
    ):
        import_data(settings, ImportRequest(str(path)), NOW)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.csv", None, "no such file"),
        ("notes.txt", b"hello", "not one of"),
        ("short.csv", b"Invoice,StockCode\n1,2\n", "has no column 'Description'"),
        (
            "catalogue.csv",
            b"item_id,title\na,x\n",
            "catalogue.csv: give the interactions of your own shop by --inter.* has no column 'Invoice'",
        ),
        ("broken.parquet", b"PAR1 not really", "can't be read"),
        ("broken.xlsx", b"not a workbook", "not a workbook"),
    ],
)
def test_a_file_of_the_wrong_kind_says_what_is_wrong(name, content, message, settings, tmp_path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        import_data(settings, ImportRequest(str(tmp_path / name)), NOW)
    assert not settings.data_path.exists()


def write_storefront(folder: Path, items: str, interactions: str) -> Path:
    (folder / "items.csv").write_text(items)
    (folder / "interactions.csv").write_text(interactions)
    return folder


def test_a_storefronts_own_data(settings, tmp_path) -> None:
    write_storefront(
        tmp_path,
        "item_id,title,price,hidden,stock\nb,Second,2.5,true,0\na,First,,,\n",
        "user_id,item_id,at,kind,colour\n"
        "u1,a,2026-01-01T10:00:00+02:00,view,red\n"
        "u1,a,2026-01-01T10:00:00+02:00,view,red\n"
        "u2,b,1767254400,,\n"
        "u2,gone,1767254400000,click,\n",
    )
    manifest = import_data(settings, ImportRequest(str(tmp_path), licence="ours"), NOW)
    assert {rule["name"]: rule["dropped"] for rule in manifest["rules"]} == {
        "duplicate": 1,
        "unknown_item": 1,
    }
    assert manifest["licence"] == "ours"
    data = ParquetDataStore(settings.data_path).load()
    assert data.catalogue.hidden.tolist() == [False, True]
    assert data.catalogue.stock.tolist() == [-1, 0]
    assert data.catalogue.category.tolist() == ["other", "other"]
    assert data.interactions.at.tolist() == [1767254400.0, 1767254400.0]
    assert [KINDS[kind] for kind in data.interactions.kind] == ["view", "purchase"]
    assert data.interactions.price.tolist() == [0.0, 2.5]


@pytest.mark.parametrize("ends", ["\r\n \n \r\n \n", "\n \n \r\n \n", "\r\n \r\n \r\n \r\n", "\n \n \n \n"])
def test_both_line_endings_work_also_inside_quoted_fields(ends, settings, tmp_path) -> None:
    first, second, third, quoted = ends.split(" ")
    items = f'item_id,title,description{first}a,First,"up{quoted}down, ""so"""{second}b,Second,{third}'
    (tmp_path / "items.csv").write_bytes(items.encode())
    (tmp_path / "interactions.csv").write_text("user_id,item_id,at\nu1,a,2026-01-01\n")
    import_data(settings, ImportRequest(str(tmp_path)), NOW)
    catalogue = ParquetDataStore(settings.data_path).load().catalogue
    assert catalogue.title.tolist() == ["First", "Second"]


def test_a_mistake_under_mixed_line_endings_names_its_row(settings, tmp_path) -> None:
    (tmp_path / "items.csv").write_bytes(b"item_id,title,price\r\na,First,1\nb,Second,cheap\r\n")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,at\nu1,a,2026-01-01\n")
    with pytest.raises(BadInputError, match="column 'price', row 3: 'cheap'"):
        import_data(settings, ImportRequest(str(tmp_path)), NOW)


@pytest.mark.parametrize(
    ("items", "interactions", "message"),
    [
        (
            "item_id,title\na,x\na,y\n",
            "user_id,item_id,at\nu,a,2026-01-01\n",
            "'item_id', row 3: 'a' .*is unique",
        ),
        ("item_id,title\na,\n", "user_id,item_id,at\nu,a,2026-01-01\n", "column 'title', row 2"),
        ("item_id,title,price\na,x,-1\n", "user_id,item_id,at\nu,a,2026-01-01\n", "'-1.0' .*is not negative"),
        ("item_id,title\na,x\n", "user_id,item_id,at,kind\nu,a,2026-01-01,stare\n", "'kind', row 2: 'stare'"),
        ("item_id,title\na,x\n", "user_id,item_id,at\nu,a,1855-01-01\n", "lies between 1990 and 2100"),
        (
            "item_id,title\na,x\n",
            "user_id,at\nu,2026-01-01\n",
            "has no column 'item_id'; it has at, user_id$",
        ),
        ("", "user_id,item_id,at\nu,a,2026-01-01\n", "items.csv: is empty"),
        (
            "item_id,title,stock\na,x,3000000000\n",
            "user_id,item_id,at\nu,a,2026-01-01\n",
            "'stock', row 2: '3000000000.0' .*is at most 2147483647",
        ),
        (
            'item_id,title\na,x\nb,"unclosed\nc,z\n',
            "user_id,item_id,at\nu,a,2026-01-01\n",
            "'title', row 3: '\"unclosed' .*closes its quotes",
        ),
        ("item_id,title\na,x\x00\n", "user_id,item_id,at\nu,a,2026-01-01\n", "'title', row 2.*no control"),
        ("item_id,title,title\na,x,y\n", "user_id,item_id,at\nu,a,2026-01-01\n", "'title' more than once"),
        *(
            ("item_id,title\na,x\n", f"user_id,item_id,at\nu,a,2026-01-01T00:00:00{offset}\n", "'at', row 2")
            for offset in ("+99:00", "-15:00", "+2400", "+01:60")
        ),
    ],
)
def test_a_bad_storefront_file_is_refused(items, interactions, message, settings, tmp_path) -> None:
    with pytest.raises(BadInputError, match=message):
        import_data(settings, ImportRequest(str(write_storefront(tmp_path, items, interactions))), NOW)
    assert not settings.data_path.exists()


@pytest.mark.parametrize("offset", ["+14:00", "-12:00", "+0545", "-03", "Z"])
def test_an_offset_of_a_place_on_earth_is_taken(offset, settings, tmp_path) -> None:
    write_storefront(
        tmp_path, "item_id,title\na,x\n", f"user_id,item_id,at\nu,a,2026-01-02T00:00:00{offset}\n"
    )
    wanted = datetime.fromisoformat(f"2026-01-02T00:00:00{offset}")
    assert (
        import_data(settings, ImportRequest(str(tmp_path)), NOW)["window"][0]
        == wanted.astimezone(UTC).isoformat()
    )


def test_late_quotes_are_quotes_and_inches_are_text(settings, tmp_path) -> None:
    plain = "".join(f"i{row},T{row},c\n" for row in range(25_000))
    lines = "user_id,item_id,at\nu,z,2026-01-01\n"
    write_storefront(tmp_path, f'item_id,title,category\n{plain}y,"A, ""b""",c\nz,"B",c\n', lines)
    import_data(settings, ImportRequest(str(tmp_path)), NOW)
    assert ParquetDataStore(settings.data_path).load().catalogue.title[-2:].tolist() == ['A, "b"', "B"]
    write_storefront(tmp_path, 'item_id,title\na,5" nail\nz,6" x 3" nail\n', lines)
    import_data(settings, ImportRequest(str(tmp_path)), NOW)
    assert ParquetDataStore(settings.data_path).load().catalogue.title[0] == '5" nail'


@pytest.mark.parametrize(("unit", "far"), [("ms", 9 * 10**15), ("us", -9 * 10**18)])
def test_a_time_beyond_every_calendar_is_named_by_its_row(unit, far, settings, tmp_path) -> None:
    seen = pa.array([1_700_000_000 * {"ms": 10**3, "us": 10**6}[unit], far], pa.timestamp(unit))
    pq.write_table(
        pa.table({"item_id": ["a", "b"], "title": ["x", "y"], "first_seen": seen}), tmp_path / "items.parquet"
    )
    (tmp_path / "interactions.csv").write_text("user_id,item_id,at\nu,a,2026-01-01\n")
    with pytest.raises(FileValidationError, match="'first_seen', row 2: .*lies between 1990 and 2100"):
        import_data(settings, ImportRequest(str(tmp_path)), NOW)


def test_a_duplicate_column_is_refused_in_every_file_format(settings, tmp_path) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,at\nu,a,2026-01-01\n")
    columns = [["a"], ["x"], ["y"]]
    twice = pa.Table.from_arrays([pa.array(column) for column in columns], ["item_id", "title", "title"])
    pq.write_table(twice, tmp_path / "items.parquet")
    with pytest.raises(BadInputError, match="items.parquet: has the column 'title' more than once"):
        import_data(settings, ImportRequest(str(tmp_path)), NOW)
    (tmp_path / "items.parquet").unlink()
    book = openpyxl.Workbook()
    for row in (["item_id", "title", "item_id"], ["a", "x", "b"]):
        book.active.append(row)
    book.save(tmp_path / "items.xlsx")
    with pytest.raises(BadInputError, match="items.xlsx: has the column 'item_id' more than once"):
        import_data(settings, ImportRequest(str(tmp_path)), NOW)
    write_storefront(tmp_path, "item_id,title,x,x\na,x,1,2\n", "user_id,item_id,at\nu,a,2026-01-01\n")
    (tmp_path / "items.xlsx").unlink()
    assert (
        import_data(settings, ImportRequest(str(tmp_path)), NOW)["counts"]["items"] == 1
    )  # an ignored column


def test_rebasing_moves_all_times_alike_and_splits_there(settings, tmp_path) -> None:
    source, store = str(as_csv(tmp_path)), ParquetDataStore(settings.data_path)
    plain = store.load(import_data(settings, ImportRequest(source), NOW)["version"])
    split, rebase = OVERLAP.replace(tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
    manifest = import_data(settings, ImportRequest(source, split=split, rebase=rebase), NOW)
    shift_s = (rebase - split).total_seconds()
    assert manifest["shift_s"] == shift_s
    train, held_out = store.load(), store.load_holdout()
    assert train.version == store.current() == manifest["version"] != plain.version
    assert train.catalogue.items.tolist() == ["79323P", "85048"]  # items sold before the split
    first_held_out = pq.read_table(settings.data_path / manifest["version"] / "holdout.parquet")["at"][0]
    assert train.interactions.at.max() < rebase.timestamp() == first_held_out.as_py().timestamp()
    assert np.allclose(train.interactions.at, plain.interactions.at[:2] + shift_s, atol=1e-6)
    assert len(held_out.at) == 0  # all its items were first sold after the split


def test_held_out_interactions_use_the_catalogue_of_their_version(settings, tmp_path) -> None:
    split = (OVERLAP + timedelta(hours=1)).replace(tzinfo=UTC)
    import_data(settings, ImportRequest(str(as_csv(tmp_path)), split=split), NOW)
    store = ParquetDataStore(settings.data_path)
    held_out, catalogue = store.load_holdout(), store.load().catalogue
    assert held_out.users[held_out.user].tolist() == ["13085"]
    assert catalogue.items[held_out.item].tolist() == ["21232"]
    assert catalogue.title[held_out.item].tolist() == ["Round Cake Tin"]  # its title at the split


def test_a_split_outside_the_data_is_refused(settings, tmp_path) -> None:
    with pytest.raises(BadInputError, match="split: 2020"):
        import_data(
            settings, ImportRequest(str(as_csv(tmp_path)), split=datetime(2020, 1, 1, tzinfo=UTC)), NOW
        )


def test_a_time_without_a_zone_is_utc() -> None:
    assert parse_time("split", "2011-11-01T00:00") == datetime(2011, 11, 1, tzinfo=UTC)
    with pytest.raises(BadInputError, match="rebase: 'soon'"):
        parse_time("rebase", "soon")


def test_damage_is_found_before_anything_is_served(settings, tmp_path) -> None:
    manifest = import_data(settings, ImportRequest(str(as_csv(tmp_path))), NOW)
    store = ParquetDataStore(settings.data_path)
    file = settings.data_path / manifest["version"] / "items.parquet"
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ConfigurationError, match="items.parquet is not what was imported"):
        store.load()


def test_without_data_the_store_says_what_to_do(settings, tmp_path) -> None:
    store = ParquetDataStore(settings.data_path)
    assert store.current() is None
    with pytest.raises(ConfigurationError, match="ringside data import"):
        store.load()
    import_data(settings, ImportRequest(str(as_csv(tmp_path))), NOW)
    with pytest.raises(ConfigurationError, match="--split"):
        store.load_holdout()


def test_the_synthetic_shop_depends_on_seed_and_end_only(settings, tmp_path) -> None:
    first = import_data(settings, ImportRequest("synthetic", seed=3), NOW)
    again = import_data(
        Settings(home=tmp_path / "again"),
        ImportRequest("synthetic", seed=3, rebase=NOW),
        NOW + timedelta(days=9),
    )
    other = import_data(settings, ImportRequest("synthetic", seed=4), NOW)
    assert first["version"] == again["version"] != other["version"]
    assert json.loads((settings.data_path / first["version"] / "manifest.json").read_text()) == first
    assert datetime.fromisoformat(first["window"][1]) <= NOW


def test_an_interrupted_write_leaves_the_old_version_current(settings, tmp_path, monkeypatch) -> None:
    split = OVERLAP.replace(tzinfo=UTC)
    before = import_data(settings, ImportRequest(str(as_csv(tmp_path)), split=split), NOW)["version"]

    def disk_full(*_args: object, **_options: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("services.adapters.files.data_store.pq.write_table", disk_full)
    with pytest.raises(OSError, match="no space"):
        import_data(settings, ImportRequest(str(as_csv(tmp_path))), NOW)
    store = ParquetDataStore(settings.data_path)
    assert store.current() == before
    assert store.versions() == [before]
    assert not list(settings.data_path.glob(".draft*"))


def test_a_catalogue_has_its_files_age_and_filled_columns(settings, tmp_path) -> None:
    lines = "user_id,item_id,at\nu,a,2026-01-01\n"
    write_storefront(tmp_path, "item_id,title,price,stock\na,First,1,\n", lines)
    written = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    os.utime(tmp_path / "items.csv", (written, written))
    store = ParquetDataStore(settings.data_path)
    version = import_data(settings, ImportRequest(str(tmp_path)), NOW)["version"]
    assert store.catalogue_provenance(version) == CatalogueProvenance(
        round(written * 1_000), frozenset({"title", "price"})
    )
    os.utime(tmp_path / "items.csv", (written + 9, written + 9))
    assert import_data(settings, ImportRequest(str(tmp_path)), NOW)["version"] == version
    assert store.catalogue_provenance(version).as_of_ms == round(written * 1_000) + 9_000
    import_data(settings, ImportRequest(str(tmp_path), as_of=datetime(2026, 2, 1, tzinfo=UTC)), NOW)
    assert (
        store.catalogue_provenance(version).as_of_ms == datetime(2026, 2, 1, tzinfo=UTC).timestamp() * 1_000
    )
    import_data(settings, ImportRequest(str(tmp_path), as_of=NOW + timedelta(days=9)), NOW)
    assert (
        store.catalogue_provenance(version).as_of_ms == NOW.timestamp() * 1_000
    )  # at most the time of the import
    assert store.load().version == version


def test_titles_read_like_titles() -> None:
    assert title("  SET OF 3  CAKE TINS, PANTRY DESIGN ") == "Set of 3 Cake Tins, Pantry Design"
    assert title("CHILDREN'S T-LIGHT 15CM (RED)") == "Children's T-Light 15cm (Red)"


def test_a_category_is_what_many_titles_end_with() -> None:
    titles = [
        "Red Cake Tin",
        "Blue Cake Tins",
        "Tin of Sweets",
        "Card Holder",
        "Paper Holder",
        "Odd Thing",
        "Design",
    ]
    assert categories(titles, n=2) == ["tin", "tin", "tin", "holder", "holder", "other", "other"]


def test_every_rule_says_why() -> None:
    assert all(rule.why for rule in online_retail.RULES)
