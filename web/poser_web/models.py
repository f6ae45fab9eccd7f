"""Models of the tracked tables, the maintained views, and the summary of widgets.

RELATIONS reads their definitions from the catalogs as one JSON text, from which
make_models() makes the models.  Each request reads FINGERPRINT.  If it has changed, the
models are made again, in a registry of their own.  Requests that run then keep the old ones.

A column of a simple type becomes one of Django's fields.  All others become a Column, whose
value is the server's text for it.  So no value loses anything on its way, and the server
alone decides what is valid.
"""
import copy
import json
import re

from django import forms
from django.apps import apps
from django.apps.registry import Apps
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import EmptyResultSet, ImproperlyConfigured, ValidationError
from django.db import connection, models
from django.db.models.expressions import Col
from django.db.models.fields.related_descriptors import ForwardManyToOneDescriptor
from django.db.models.lookups import Exact, In
from django.utils.crypto import salted_hmac
from django.utils.html import escape

LABEL = "tables"


def quoted(*names):
    """Quoted identifiers.  Django leaves quoted names as they are, so % is doubled here."""
    return ".".join('"' + name.replace('"', '""').replace("%", "%%") + '"' for name in names)


### Roles


# The role of the session, if it may log in here, and the schemas of its search_path that are safe: those in which not
# every role may create objects.  The schema with the role's own name must also be owned by the role or a superuser.
# From version 16 on a membership can be without SET.
LET_IN = """
SELECT r.oid::int8, r.rolname, ARRAY(
           SELECT n.nspname
             FROM unnest(%s::name[]) WITH ORDINALITY AS p (name, place) JOIN pg_namespace n ON n.nspname = p.name
            WHERE NOT has_schema_privilege('public', n.oid, 'CREATE')
              AND (n.nspname <> r.rolname OR n.nspowner = r.oid OR (SELECT rolsuper FROM pg_roles WHERE oid = n.nspowner))
            ORDER BY p.place)::text[]
  FROM pg_roles r, pg_roles web
 WHERE r.rolname = session_user AND web.rolname = %s AND NOT r.rolsuper AND NOT web.rolsuper
   AND pg_has_role(web.oid, r.oid, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
"""


class Role(AbstractBaseUser):
    """A role of PostgreSQL, as Django's user."""

    password = last_login = None
    oid = models.BigIntegerField(primary_key=True)
    rolname = models.CharField("user", max_length=63, unique=True)

    USERNAME_FIELD = "rolname"
    is_staff = is_active = True

    class Meta:
        managed = False
        db_table = '"pg_catalog"."pg_roles"'

    @classmethod
    def let_in(cls, cursor):
        """The role of the cursor's session, if it may log in here: it is granted to the web's
        role, and neither is a superuser.  This sets the transaction's search_path to pg_catalog."""
        path = "pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)"
        cursor.execute(f"SELECT schemas, {path} FROM (SELECT pg_catalog.current_schemas(false)::text[] OFFSET 0) AS s (schemas)")
        (schemas, _) = cursor.fetchone()
        cursor.execute(LET_IN, [schemas, settings.WEB_ROLE])
        row = cursor.fetchone()
        if row is None:
            return None
        role = cls(*row[:2])
        role.schemas, role.unsafe_schemas = row[2], [name for name in schemas if name not in row[2]]
        return role

    def get_session_auth_hash(self):
        """A hash that differs for another role of the same name."""
        return salted_hmac("poser_web.role", f"{self.oid} {self.rolname}", algorithm="sha256").hexdigest()

    def has_usable_password(self):
        return False  # so Django offers no page to change it

    def has_module_perms(self, label):
        return True  # GRANTs decide, table by table

    def has_perm(self, permission, obj=None):
        return False


### Definitions, from the catalogs

RELATIONS = """
WITH listed AS (
    SELECT target AS oid, key, versions::oid AS versions, excluded, NULL::pg_catalog.oid AS bookkeeping FROM {poser}_tables
    UNION ALL
    -- A view's key: its columns that are in the key of its bookkeeping, or are not in its bookkeeping.
    SELECT v.view, (
               SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum)
                 FROM pg_catalog.pg_attribute a
                 LEFT JOIN pg_catalog.pg_attribute b ON b.attrelid = v.bookkeeping AND b.attname = a.attname
                WHERE a.attrelid = v.view AND a.attnum > 0
                  AND (b.attnum IS NULL OR b.attnum = ANY (SELECT pg_catalog.unnest(k.conkey) FROM pg_catalog.pg_constraint k
                                                            WHERE k.conrelid = v.bookkeeping AND k.contype = 'p'))
           ), NULL, NULL, v.bookkeeping
      FROM {poser}_views v WHERE v.view IS NOT NULL
    UNION ALL
    SELECT s.oid, NULL, NULL, NULL, NULL
      FROM pg_catalog.pg_class s JOIN pg_catalog.pg_extension x ON x.extname = 'poser' AND x.extnamespace = s.relnamespace
     WHERE s.relname = 'poser_widget_summary'
)
SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
    'oid', c.oid::int8, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'comment', pg_catalog.left(d.description, 1000),
    'key', l.key, 'versions', l.versions::int8, 'excluded', l.excluded, 'own', e.objid IS NOT NULL,
    -- whether a view has all columns of the parent's key, so that no two of its rows have the same key
    'unique', c.relkind <> 'v' OR e.objid IS NOT NULL OR NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_attribute b ON b.attrelid = k.conrelid AND b.attnum = ANY (k.conkey)
         WHERE k.conrelid = l.bookkeeping AND k.contype = 'p' AND b.attnum <> k.conkey[pg_catalog.cardinality(k.conkey)]
           AND pg_catalog.strpos(
                   pg_catalog.translate(pg_catalog.split_part(pg_catalog.pg_get_viewdef(c.oid), E'\n   FROM ', 1), ',', ' ') || ' ',
                   ' parent.' || pg_catalog.quote_ident(b.attname) || ' ') = 0
    ),
    'columns', (
        SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
            'number', a.attnum, 'name', a.attname, 'comment', pg_catalog.left(ad.description, 1000),
            'type', pg_catalog.format_type(a.atttypid, a.atttypmod), 'base', base.type, 'category', base.category,
            'domain', base.levels > 1,
            'typmod', CASE WHEN base.typmod >= 0 THEN base.typmod ELSE a.atttypmod END,
            'not_null', a.attnotnull OR base.not_null, 'identity', a.attidentity, 'generated', a.attgenerated,
            'default', pg_catalog.left(COALESCE(pg_catalog.pg_get_expr(def.adbin, def.adrelid), base.preset), 5000),
            'labels', (SELECT pg_catalog.json_agg(v.enumlabel ORDER BY v.enumsortorder)
                         FROM pg_catalog.pg_enum v WHERE v.enumtypid = base.oid),
            -- whether values of the type can be compared with <
            'ordered', (
                SELECT e.typtype IN ('e', 'r', 'm') OR EXISTS (
                    SELECT FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod AND m.amname = 'btree'
                     WHERE o.opcdefault AND (o.opcintype = e.oid OR o.opcintype IN (
                        SELECT b.casttarget FROM pg_catalog.pg_cast b
                         WHERE b.castsource = e.oid AND b.castmethod = 'b' AND b.castcontext = 'i')))
                  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_type e ON e.oid = CASE t.typcategory WHEN 'A' THEN t.typelem ELSE t.oid END
                 WHERE t.oid = base.oid)
        ) ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        LEFT JOIN pg_catalog.pg_attrdef def ON def.adrelid = a.attrelid AND def.adnum = a.attnum
        LEFT JOIN pg_catalog.pg_description ad
               ON ad.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND ad.objoid = a.attrelid AND ad.objsubid = a.attnum
        CROSS JOIN LATERAL (
            WITH RECURSIVE domains AS (
                SELECT t.*, 1 AS level FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid
                UNION ALL
                SELECT t.*, level + 1 FROM domains o JOIN pg_catalog.pg_type t ON t.oid = o.typbasetype AND o.typtype = 'd'
            )
            SELECT (pg_catalog.array_agg(o.oid ORDER BY level DESC))[1] AS oid,
                   (pg_catalog.array_agg(pg_catalog.format_type(o.oid, NULL) ORDER BY level DESC))[1] AS type,
                   pg_catalog.max(o.typcategory) AS category, pg_catalog.max(level) AS levels,
                   COALESCE(pg_catalog.max(o.typtypmod), -1) AS typmod, pg_catalog.bool_or(o.typnotnull) AS not_null,
                   (pg_catalog.array_agg(o.typdefault ORDER BY level) FILTER (WHERE o.typdefault IS NOT NULL))[1] AS preset
              FROM domains o
        ) base
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ),
    'constraints', (
        SELECT pg_catalog.json_object_agg(k.conname, k.conkey ORDER BY k.conname)
          FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('c', 'f', 'p', 'u', 'x')
    ),
    'indexes', (
        SELECT pg_catalog.json_object_agg(ic.relname, i.indkey::int2[] ORDER BY ic.relname)
          FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
         WHERE i.indrelid = c.oid AND i.indisunique
    ),
    'references', (
        SELECT pg_catalog.json_agg(pg_catalog.json_build_array(k.conkey[1], k.confrelid::int8, k.confkey[1]) ORDER BY k.conkey, k.oid)
          FROM pg_catalog.pg_constraint k
         WHERE k.conrelid = c.oid AND k.contype = 'f' AND pg_catalog.cardinality(k.conkey) = 1 AND k.conparentid = 0
    )
) ORDER BY n.nspname, c.relname)::text
FROM listed l
JOIN pg_catalog.pg_class c ON c.oid = l.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_description d
       ON d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objoid = c.oid AND d.objsubid = 0
LEFT JOIN pg_catalog.pg_depend e
       ON e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid AND e.deptype = 'e'
"""


def snapshot():
    """The snapshot of a request, as text.  Requests with the same text see the same catalogs.
    This also keeps the schema of the extension for poser()."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname, e.extversion, pg_catalog.pg_current_snapshot()::text FROM pg_catalog.pg_extension e"
            " JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'poser'"
        )
        row = cursor.fetchone()
    if row is None:
        raise ImproperlyConfigured("This database does not have the extension poser.  CREATE EXTENSION poser installs it.")
    schema, version, text = row
    if [int(number) for number in re.findall(r"\d+", version)] < [1, 7]:
        raise ImproperlyConfigured(f"This database has poser {version}, and 1.7 is needed.  ALTER EXTENSION poser UPDATE updates it.")
    connection.poser = quoted(schema)
    return text


def poser(name):
    """The name of a function or relation of the extension, with its schema, for SQL."""
    return f"{connection.poser}.{name}"


# A digest of the row versions of all that RELATIONS reads.  It is much cheaper than RELATIONS.
FINGERPRINT = """
WITH listed AS MATERIALIZED (
    SELECT target::pg_catalog.oid AS oid, (key, versions::pg_catalog.oid)::text AS said FROM {poser}_tables
    UNION ALL
    SELECT view, bookkeeping::pg_catalog.oid::text FROM {poser}_views WHERE view IS NOT NULL
), columns AS MATERIALIZED (
    SELECT a.attrelid, a.attnum, a.atttypid, a.xmin FROM pg_catalog.pg_attribute a WHERE a.attrelid IN (SELECT oid FROM listed)
)
SELECT pg_catalog.md5(pg_catalog.string_agg(r.said, ' ' ORDER BY r.said COLLATE "C"))
  FROM (SELECT (oid, said)::text FROM listed
        UNION ALL
        SELECT (c.oid, c.xmin)::text FROM pg_catalog.pg_class c WHERE c.oid IN (SELECT oid FROM listed)
        UNION ALL
        SELECT (a.attrelid, a.attnum, a.xmin)::text FROM columns a
        UNION ALL
        SELECT (d.oid, d.xmin)::text FROM pg_catalog.pg_attrdef d WHERE d.adrelid IN (SELECT oid FROM listed)
        UNION ALL
        SELECT (k.oid, k.xmin)::text FROM pg_catalog.pg_constraint k WHERE k.conrelid IN (SELECT oid FROM listed)
        UNION ALL
        SELECT (i.indexrelid, i.xmin, c.xmin)::text
          FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid IN (SELECT oid FROM listed)
        UNION ALL
        SELECT (s.objoid, s.objsubid, s.xmin)::text FROM pg_catalog.pg_description s
         WHERE s.objoid IN (SELECT oid FROM listed) AND s.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass
        UNION ALL
        SELECT (t.oid, t.xmin)::text FROM pg_catalog.pg_type t WHERE t.typtype IN ('d', 'e') OR t.oid IN (SELECT atttypid FROM columns)
        UNION ALL
        SELECT (n.oid, n.xmin)::text FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^pg_' -- any session can make a schema pg_temp_N
        UNION ALL
        SELECT (e.oid, e.xmin)::text FROM pg_catalog.pg_enum e) AS r (said)
"""


def no_time_limit():
    """Lift the time limit of the request's statements, for instance for the execution of a batch."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")


def read_catalogs(statement):
    """The text that RELATIONS or FINGERPRINT returns.  search_path must be pg_catalog, so that all roles get the same text."""
    statement = statement.format(poser=poser("poser"))
    with connection.cursor() as cursor:
        cursor.execute(statement, [])
        return cursor.fetchone()[0]


class Relation:
    """The definition of a table or view.  Its model has it as model.relation."""

    def __init__(self, definition):
        self.oid, self.schema, self.name = definition["oid"], definition["schema"], definition["name"]
        self.comment, self.versions = definition["comment"], definition["versions"]
        self.own = definition["own"]  # belongs to the extension
        self.is_view = definition["kind"] == "v"
        self.unique = definition["unique"]  # no two rows have the same key
        self.columns = {column["number"]: column for column in definition["columns"] or []}
        # make_models() drops the references to tables without a model.
        self.references = {number: (oid, to) for number, oid, to in definition["references"] or []}
        self.sql = quoted(self.schema, self.name)
        # The columns of each constraint and unique index, for errors.
        self.constraints = {**(definition["indexes"] or {}), **(definition["constraints"] or {})}
        numbers = {column["name"]: number for number, column in self.columns.items()}
        self.key = [numbers[name] for name in definition["key"] or [] if name in numbers]
        if not self.key:
            self.key = list(self.columns)[:1]
        for number, column in self.columns.items():
            column["field"] = field_name(number, column["name"])

    def field(self, number):
        """The name of a column's field; None for a system column or an expression."""
        return self.columns[number]["field"] if number in self.columns else None


# Names that a field cannot have: attributes of models, arguments of Django's functions, fields of forms and grids.
TAKEN = ("pk", "key_columns", "relation", "objects", "self", "why", "seen", "action", "index", "select_across", "csrfmiddlewaretoken")


def field_name(number, name):
    """The name of a column's field: the column's name if Django allows it, else column_N."""
    plain = re.fullmatch(r"(?!get_|column_)[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
    return name if plain and not hasattr(Row, name) and name not in TAKEN else f"column_{number}"


### Fields


class Field:
    """The common part of all columns' fields.  info is the column in RELATIONS."""

    info = {}
    db_returning = False  # whether an INSERT reads the value back

    def returned(self):
        """What RETURNING has: the value as rows have it that are read."""
        if not isinstance(self, Column):
            return self
        field = copy.copy(self)
        field.column += '::pg_catalog."text"'  # with a quote at its end, Django takes it as it is
        return field

    def save_form_data(self, instance, data):
        """An empty form field becomes NULL where the column allows it."""
        empty = data == "" and (self.null or not self.empty_strings_allowed)
        setattr(instance, self.attname, None if empty else data)


def with_lf(value):
    """A text with LF as each line end."""
    return re.sub("\r\n?", "\n", value) if isinstance(value, str) else value


class Verbatim(forms.CharField):
    """A text with the spaces at its ends.  Browsers send each line end as CR LF, whatever it was, so line ends are not compared."""

    def __init__(self, **options):
        super().__init__(**{**options, "strip": False})

    def to_python(self, value):
        return with_lf(super().to_python(value))

    def has_changed(self, initial, data):
        return super().has_changed(with_lf(initial), with_lf(data))


class TextField(Field):
    """The common part of fields whose values are texts."""

    def formfield(self, **options):
        return super().formfield(**{"form_class": Verbatim, **options})


class Column(TextField, models.Field):
    """A column of any type.  Its value is the text that the server writes and reads."""

    empty_strings_allowed = False

    def select_format(self, compiler, sql, params):
        return f"{sql}::text", params

    def to_python(self, value):
        return value if value is None else str(value)

    get_prep_value = to_python

    def get_internal_type(self):
        return "Column"


# Simple types have Django's own fields.
SmallInteger, Integer, BigInteger, Line, Text = (
    type(django.__name__, (ours, django), {"__module__": __name__})
    for ours, django in ((Field, models.SmallIntegerField), (Field, models.IntegerField), (Field, models.BigIntegerField),
                         (TextField, models.CharField), (TextField, models.TextField))
)


class Boolean(Field, models.BooleanField):
    def to_python(self, value):
        return super().to_python({"true": True, "false": False}.get(value, value))  # as JSON and the server write it


NUMBERS = {"smallint": SmallInteger, "integer": Integer, "bigint": BigInteger}


class OtherRow(ForwardManyToOneDescriptor):
    def get_object(self, instance):
        """The row that is referred to, with nothing but its key: the role may not be able to read it."""
        return self.field.related_model.from_db(None, [self.field.target_field.attname], self.field.get_local_related_value(instance))


class Reference(Field, models.ForeignKey):
    """A foreign key of one column.  Its form field has the value.  The database checks it."""

    forward_related_accessor_class = OtherRow

    def get_attname(self):
        return f"{self.name}_"

    def validate(self, value, instance):
        pass

    def formfield(self, **options):
        options.pop("using", None)
        target = self.target_field.formfield(**options)
        target.required, target.label, target.help_text = not self.blank, self.verbose_name, self.help_text
        return target

    def save_form_data(self, instance, data):
        if isinstance(data, models.Model):  # a line of a form has the row itself
            setattr(instance, self.name, data)
        else:
            super().save_form_data(instance, data)


class KeyCol(Col):
    """A key of several columns, in SQL."""

    def __init__(self, alias, field):
        super().__init__(alias, field)
        self.parts = [f"{alias}.{column}" for column in field.parts]
        self.texts = [part if number else f"{part}::text" for part, number in zip(self.parts, field.numbers)]

    def as_sql(self, compiler, connection):
        return f"pg_catalog.jsonb_build_array({', '.join(self.texts)})::text", []


class Key(Field, models.Field):
    """A primary key of several columns: the JSON text of their values, as in [7, "a"]."""

    def __init__(self, columns, **options):
        super().__init__(primary_key=True, editable=False, **options)
        self.parts = [quoted(column["name"]) for column in columns]
        self.numbers = [column["base"] in NUMBERS for column in columns]  # NaN and money are no numbers in JSON

    def get_col(self, alias, output_field=None):
        return KeyCol(alias, self)

    @property
    def cached_col(self):
        return KeyCol(self.model._meta.db_table, self)

    def to_python(self, value):
        try:
            self.values_of(value)
        except (ValueError, RecursionError) as error:
            raise ValidationError("not a key") from error
        return value

    def values_of(self, key):
        values = json.loads(key, parse_int=str, parse_float=str)
        if not isinstance(values, list) or len(values) != len(self.parts) or not all(isinstance(v, str) for v in values):
            raise ValueError("not a key")
        return values

    def text_of(self, values):
        """The key of a row whose key has these values, as the server would write it."""
        values = [str(v).lower() if isinstance(v, bool) else v for v in values]
        return f"[{', '.join(str(v) if number else json.dumps(v, ensure_ascii=False) for v, number in zip(values, self.numbers))}]"

    def equals(self, lookup, keys):
        """SQL that compares the columns themselves, so that it can use their index."""
        rows = [self.values_of(key) for key in keys]
        row = f"({', '.join(['%s'] * len(self.parts))})"
        return f"({', '.join(lookup.lhs.parts)}) IN ({', '.join([row] * len(rows))})", sum(rows, [])


@Key.register_lookup
class KeyExact(Exact):
    def as_sql(self, compiler, connection):
        return self.lhs.target.equals(self, [self.rhs])


@Key.register_lookup
class KeyIn(In):
    def as_sql(self, compiler, connection):
        if not self.rhs:
            raise EmptyResultSet
        return self.lhs.target.equals(self, list(self.rhs))


### Models


class Row(models.Model):
    """A row of any table.  The class of each table has its Relation as "relation".

    What a form sets before it adds a row: given, the names of its fields, so that an empty
    one is NULL where the form has shown a default; unreturned, if the role may not read the new row's key.
    After the INSERT, discarded says whether a trigger has left it out.
    """

    given = ()
    unreturned = discarded = False

    class Meta:
        abstract = True

    def __str__(self):
        return str(self.pk) or "''"

    def validate_unique(self, exclude=None):
        pass  # the database does

    def _do_insert(self, manager, using, fields, returning_fields, raw):
        """INSERT without the columns that have no value.  They get their default, or NULL."""
        returning_fields = [] if self.unreturned else [field.returned() for field in returning_fields]
        rows = super()._do_insert(manager, using, [f for f in fields if self.has_value(f)], returning_fields, raw)
        self.discarded = bool(returning_fields) and not any(rows)
        return [] if self.discarded else rows

    def has_value(self, field):
        value = getattr(self, field.attname)
        if not field.info or field.info["generated"]:
            return False
        if value is None:
            return field.name in self.given and constant(field.info["default"]) is not None
        return value != "" or field.info["default"] is None or constant(field.info["default"]) is not None

    def save_base(self, *args, **options):
        super().save_base(*args, **options)
        if isinstance(self._meta.pk, Key):
            values = [getattr(self, self._meta.get_field(self.relation.field(n)).attname) for n in self.relation.key]
            self.pk = None if None in values else self._meta.pk.text_of(values)


def constant(default):
    """The value of a default that is a constant; None for one that is computed."""
    match = re.fullmatch(r"'((?:[^']|'')*)'::[^']+|\(?(-?[0-9.]+)\)?(?:::[a-z ]+)?|(true|false)", default or "")
    if not match:
        return None
    text, number, truth = match.groups()
    return truth == "true" if truth else number if number else text.replace("''", "'")


def field_of(relation, number, relations):
    """The field of a column."""
    info = relation.columns[number]
    base, in_key = info["base"], relation.key == [number]
    made = info["default"] is not None or bool(info["identity"])
    options = {
        "verbose_name": info["name"],
        "help_text": escape(info["comment"] or ""),  # templates take it for HTML
        "db_column": quoted(info["name"]),
        "primary_key": in_key,
        "null": not info["not_null"] and not in_key,
        "blank": not info["not_null"] or made,
        "editable": not info["generated"] and info["identity"] != "a",
        "default": None,
    }
    if number in relation.references:
        oid, to = relation.references[number]
        other = relations[oid]
        options.update(to=f"{LABEL}.{other.model_name}", to_field=other.field(to))
        options.update(on_delete=models.DO_NOTHING, related_name="+", db_constraint=False)
        kind = Reference
    elif base == "boolean":
        kind = Boolean
    elif base in NUMBERS:
        kind = NUMBERS[base]
    elif base in ("character varying", "character") and info["typmod"] > 4:
        options["max_length"] = info["typmod"] - 4
        kind = Line
    elif info["category"] == "S":  # text, and other string types
        kind = Text
    else:
        if info["labels"]:
            options["choices"] = [(label, label) for label in info["labels"]]
        else:  # what may be typed depends on the type
            options["help_text"] = f"{options['help_text']} ({escape(info['type'])})" if info["comment"] else escape(info["type"])
        kind = Column
    field = kind(**options)
    field.info = info
    field.db_returning = number in relation.key
    return field


def name_models(relations):
    """Give each relation the name of its model, which is part of its address.  If several want the
    same name, the extension's relation gets it, then one with exactly this name, then the oldest."""
    wishes = {}
    for relation in relations:
        name = relation.name if relation.own or relation.schema == "public" else f"{relation.schema}_{relation.name}"
        wishes[relation] = re.sub(r"[^a-z0-9_]", "_", name.lower())
    names = set()
    for relation in sorted(wishes, key=lambda r: (not r.own, wishes[r] != r.name, r.oid)):
        name = wishes[relation]
        while name in names:
            name += f"_{relation.oid}"
        relation.model_name = name
        names.add(name)


def keep_references(relation, relations):
    """Drop references to tables without a model, and references that go round in a circle."""
    kept = {}
    for number, place in relation.references.items():
        above = [(relation.oid, number)]
        while place[0] in relations and place not in above:
            above.append(place)
            place = relations[place[0]].references.get(place[1], (None, None))
        if len(above) > 1 and place not in above:
            kept[number] = above[1]
    relation.references = kept


def make_models(text):
    """Models of the relations in this text (read_catalogs(RELATIONS)), as a list."""
    relations = {d["oid"]: Relation(d) for d in json.loads(text) or []}
    registry = Apps()
    registry.app_configs[LABEL] = apps.get_app_config(LABEL)
    name_models(relations.values())
    made = {}
    for relation in relations.values():
        keep_references(relation, relations)
    for relation in relations.values():
        fields = {relation.field(number): field_of(relation, number, relations) for number in relation.columns}
        if len(relation.key) > 1:
            fields["key_columns"] = Key([relation.columns[n] for n in relation.key], db_column="key")
        meta = {
            "apps": registry,
            "app_label": LABEL,
            "managed": False,
            "db_table": relation.sql,
            "verbose_name": relation.name,
            "verbose_name_plural": relation.name,
            # By the name of a Reference Django would sort in the order of the other table.
            "ordering": [relation.field(n) + "_" * isinstance(fields[relation.field(n)], Reference) for n in relation.key],
        }
        made[relation.oid] = type(
            relation.model_name,
            (Row,),
            {"__module__": __name__, "Meta": type("Meta", (), meta), "relation": relation, **fields},
        )
    for number, model in made.items():
        # Django asks for the content type of a model.  There is no table of them, so they are put into its cache.
        ContentType.objects._add_to_cache("default", ContentType(pk=number, app_label=LABEL, model=model._meta.model_name))
    return list(made.values())
