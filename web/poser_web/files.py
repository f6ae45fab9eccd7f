"""CSV and XLSX files: exports write them, and imports read them.

The server writes and reads CSV, by COPY.  In CSV a text is in quotes, also an empty one; NULL
is an empty field without quotes.  openpyxl writes and reads XLSX, row by row; for an import a
sheet becomes CSV.  tablib is not used: it has all rows in memory, and CSV without NULL.

A text that begins like a formula gets an apostrophe in front, so that no spreadsheet
program runs it.  An import removes the apostrophe, so that an exported file has the same
values when it is read.  In XLSX an empty text is an apostrophe where an empty cell would be NULL.
"""
import csv
import datetime
import io
import re
import sys
import zipfile
from collections import namedtuple

import openpyxl
from django.core.exceptions import EmptyResultSet
from django.db import connection
from openpyxl.cell import WriteOnlyCell

from .statements import Refused

SHEET_ROWS, CELL_LENGTH, SHEET_COLUMNS = 1048576, 32767, 1600  # a table cannot have more, a sheet can
HEADER_ROWS = 1000  # a sheet must have its header in these, since a small file can pretend any number of empty rows
# Texts that get an apostrophe, and those that have one: regular expressions for Python and for PostgreSQL.
FORMULA = r"[-=+@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]"
TO_ESCAPE, ESCAPED = rf"^(?:'*{FORMULA}|'+\Z)", rf"^'+(?:{FORMULA}|\Z)"
NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
NOT_ESCAPED = (*NUMBERS, "boolean", "json", "jsonb")  # their texts are no formulas
csv.field_size_limit(sys.maxsize)


def escaped(text):
    return "'" + text if re.match(TO_ESCAPE, text) else text


def unescaped(text):
    return text[1:] if re.match(ESCAPED, text) else text


### Writing

# The type is without modifiers.  exact: it fixes the digits of a number.  null: an import takes an empty field for NULL.
Column = namedtuple("Column", "name type exact null")


def write_csv(out, columns, rows):
    """Write the rows of a queryset as CSV in UTF-8, with a BOM for spreadsheet programs."""
    header = io.StringIO()
    csv.writer(header, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow([escaped(column.name) for column in columns])
    out.write(header.getvalue().encode("utf-8-sig"))
    try:
        sql, values = rows.query.sql_with_params()
    except EmptyResultSet:
        return
    names = [f"c{number}" for number in range(len(columns))]
    texts = [name for name, column in zip(names, columns) if column.type not in NOT_ESCAPED]
    quoted = [name for name, column in zip(names, columns) if column.type not in (*NUMBERS, "boolean")]
    escape = "pg_catalog.regexp_replace({0}::text COLLATE \"C\", %s, '''\\&') AS {0}"
    shown = [escape.format(name) if name in texts else f"{name}::text" for name in names]
    copy = f"COPY (SELECT {', '.join(shown)} FROM ({sql}) AS r ({', '.join(names)})) TO STDOUT (FORMAT csv"
    copy += f", FORCE_QUOTE ({', '.join(quoted)}))" if quoted else ")"
    with connection.cursor() as cursor, connection.wrap_database_errors:
        cursor.copy_expert(cursor.mogrify(copy, [TO_ESCAPE] * len(texts) + list(values)), out)


def write_xlsx(out, columns, rows):
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.freeze_panes = "A2"
    try:
        sheet.append([text_cell(sheet, escaped(column.name)) for column in columns])
        for number, values in enumerate(rows.iterator(), 2):
            if number > SHEET_ROWS:
                raise Refused(f"A sheet of XLSX has at most {SHEET_ROWS - 1:,} rows below its header.  Use CSV, or a filter.")
            sheet.append([cell_of(sheet, number, column, value) for column, value in zip(columns, values)])
    finally:
        book.save(out)  # removes the file of openpyxl, too


def cell_of(sheet, number, column, value):
    if value is None or isinstance(value, bool):
        return value
    text = str(value)
    if column.type in NUMBERS and is_short(text, column.exact):
        return float(text)
    if column.type in ("date", "timestamp without time zone"):
        if re.fullmatch(r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?", text) and text >= "1900-03-01":
            return (datetime.date if column.type == "date" else datetime.datetime).fromisoformat(text)
    if column.type not in NOT_ESCAPED:
        text = escaped(text) if text or not column.null else "'"
    cell = text_cell(sheet, text)
    if len(cell.value) >= CELL_LENGTH:  # openpyxl has cut it
        raise Refused(f"Row {number}, column “{column.name}”: a cell of XLSX has less than {CELL_LENGTH:,} characters.  Use CSV.")
    return cell


def is_short(text, exact):
    """Whether a spreadsheet, which counts in double precision, keeps a number as it is."""
    digits = text.lstrip("-").lstrip("0.").replace(".", "").partition("e")[0]
    return len(digits) <= 15 and text[-1].isdigit() and (exact or "." not in text or text[-1] != "0")


def text_cell(sheet, text):
    """A cell with a text, even if it looks like something else.  XML has no control characters: _x0007_ is one in
    XLSX, and _x005F_ is "_" in front of what looks like one."""
    text = re.sub("_(?=x[0-9A-Fa-f]{4}_)", "_x005F_", text)
    text = re.sub("[\x00-\x08\x0b-\x1f\ufffe\uffff]", lambda m: f"_x{ord(m[0]):04X}_", text)
    cell = WriteOnlyCell(sheet, text)
    cell.data_type = "s"
    return cell


### Reading


class Source:
    """A file as CSV: its text and delimiter, the names in its header, and how it was read."""

    def __init__(self, file, known, most):
        """known(name) says whether a column has this name, by which the delimiter is found.
        most is the size in bytes that the parts of an XLSX file may have."""
        start = file.read(8)
        file.seek(0)
        self.lines = None
        if start.startswith(b"PK"):
            self.text, self.lines = sheet_as_csv(file, most)
            self.delimiter, self.first = ",", 1
            self.how = {"format": "XLSX"}
        elif start.startswith(b"\xd0\xcf\x11\xe0"):
            raise Refused("This is an old Excel file, or one with a password.  Save it as XLSX or CSV.")
        else:
            text, encoding = decoded(file.read())
            named = re.match("sep=(.)[\r\n]+", text)  # Excel's way to name the delimiter
            self.text = text[named.end() if named else 0 :].rstrip("\r\n")
            self.first = 2 if named else 1
            self.delimiter = named[1] if named else max(",;\t|", key=lambda d: self.found(d, known))
            self.how = {"format": "CSV", "encoding": encoding, "delimiter": self.delimiter}
            self.quote()
        if not self.text:
            raise Refused("The file has no rows.")
        self.names = [unescaped(name) for name in self.header(self.delimiter)]
        nameless = next((number for number, name in enumerate(self.names, 1) if not name.strip()), None)
        if nameless or not self.names:
            raise Refused(f"Line {self.first}: column {nameless or 1} of the header has no name.")

    def header(self, delimiter):
        try:
            return next(csv.reader(io.StringIO(self.text[:1_000_000], newline=""), delimiter=delimiter), [])
        except csv.Error as error:
            raise Refused(f"The header cannot be read: {error}.") from error

    def found(self, delimiter, known):
        """A rank of a delimiter: the number of column names that it finds in the header, and the number of fields."""
        names = self.header(delimiter)
        return sum(known(unescaped(name)) for name in names), len(names)

    def quote(self):
        """Put fields in quotes where COPY would not take them as they are: a quote within a field, and \\. on a line."""
        ends = re.escape(self.delimiter) + "\r\n"
        proper, bare = f'"[^"]*(?:""[^"]*)*"(?![^{ends}])', f'[^"{ends}][^"{ends}]*"[^{ends}]*|\\\\\\.(?![^\r\n])'

        def quoted(match):
            if match[2]:
                line = self.first + breaks(self.text[: match.start()])
                raise Refused(f"Line {line}: a quote is not closed, or text follows the closing quote.")
            return '"' + match[1].replace('"', '""') + '"' if match[1] else match[0]

        self.text = re.sub(f'(?<![^{ends}])(?:{proper}|({bare})|("))', quoted, self.text)

    def line(self, number):
        """The line of the file, or the row of the sheet, of a line as COPY counts: it counts line ends like the first."""
        if self.lines:
            return self.lines[number - 1]
        end = re.search("[\r\n]", self.text)[0]
        return self.first + breaks("".join(part + end for part in self.text.split(end)[: number - 1]))


def breaks(text):
    return len(re.findall("\r\n?|\n", text))


def decoded(data):
    """The text of a CSV file, and the name of its encoding."""
    codec, name = ("utf-16", "UTF-16") if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "UTF-8")
    try:
        data.decode(codec)
    except UnicodeDecodeError:
        text = data.decode(codec, "replace")
        # If most other letters are proper UTF-8, then the file is not Latin-1, but damaged.
        if name == "UTF-8" and len(re.findall("[^\x00-\x7f\ufffd]", text)) <= text.count("\ufffd"):
            codec, name = "cp1252", "Windows-1252 (Latin-1)"
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        before, byte = error.object[: error.start], error.object[error.start]
        line = 1 + breaks(before.decode(codec, "replace"))
        raise Refused(f"Line {line}: the byte 0x{byte:02X} is not text in {name}.  Save the file as UTF-8.") from None
    if "\0" in text:
        raise Refused(f"Line {1 + breaks(text[:text.index(chr(0))])}: there is a character 0.  The file may not be a text file.")
    return text, name


def sheet_as_csv(file, most):
    """The first sheet of an XLSX file as CSV without blank rows, and for each line of the CSV the number of its row."""
    text, lines = io.StringIO(), []
    writer = csv.writer(text)  # with "\r\n", so that it puts values in quotes that have one of these
    try:
        with zipfile.ZipFile(file) as parts:
            if sum(part.file_size for part in parts.infolist()) > most:
                raise Refused(f"The file unpacks to more than {most // 1_000_000} MB.")
        sheet = openpyxl.load_workbook(file, read_only=True, data_only=True).worksheets[0]
        sheet.reset_dimensions()  # the file's own statement of its size can be wrong
        header = (row for row in sheet.iter_rows(max_row=HEADER_ROWS, max_col=SHEET_COLUMNS, values_only=True) if any(row))
        width = max((number for number, value in enumerate(next(header, ()), 1) if value is not None), default=0)
        if not width:
            raise Refused(f"The first {HEADER_ROWS:,} rows of the sheet are empty.")
        for number, cells in enumerate(sheet.iter_rows(max_row=SHEET_ROWS, max_col=width + 1), 1):
            values = [cell_text(cell, number) for cell in cells]
            if len(values) > width and values.pop() is not None:
                raise Refused(f"Line {number} has more fields than the header, which has {width}.")
            if not any(values):
                continue
            writer.writerow(values + [None] * (width - len(values)))
            lines += [number] * (1 + sum(value.count("\r") for value in values if value))
    except Refused:
        raise
    except Exception as error:  # openpyxl raises errors of any kind
        raise Refused(f"The file cannot be read as XLSX: {error}") from error
    return text.getvalue(), lines


def cell_text(cell, line):
    value = cell.value
    if value is None:
        return None
    if cell.data_type == "e":
        raise Refused(f"Line {line}: a cell has the error {value}.")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime):
        return str(value.date() if value.time() == datetime.time() else value)
    if isinstance(value, str):
        return re.sub(r"_x([0-9A-Fa-f]{4})_", lambda m: chr(int(m[1], 16)), value)
    return str(value)
