-- The peers for history: three audit triggers as they are usually written by hand,
-- on tables with the columns of poser_component.  They record history and count
-- nothing.  Poser does both.

-- The plain trigger: for each row it stores the old and the new row as jsonb.
CREATE TABLE jsonb_component (LIKE poser_component INCLUDING ALL,
	FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid));
CREATE TABLE jsonb_version (
	id bigserial PRIMARY KEY,
	table_name name NOT NULL,
	record_key text NOT NULL,
	operation text NOT NULL,
	issued_at timestamptz NOT NULL DEFAULT now(),
	username text NOT NULL DEFAULT session_user,
	old_record jsonb,
	new_record jsonb
);
CREATE INDEX ON jsonb_version (record_key);
CREATE INDEX ON jsonb_version USING brin (issued_at);

CREATE FUNCTION jsonb_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO jsonb_version (table_name, record_key, operation, old_record, new_record)
	VALUES (TG_TABLE_NAME, coalesce(NEW.uuid, OLD.uuid), TG_OP, to_jsonb(OLD), to_jsonb(NEW));
	RETURN NULL;
END
$$;
CREATE TRIGGER jsonb_audit AFTER INSERT OR UPDATE OR DELETE ON jsonb_component
	FOR EACH ROW EXECUTE FUNCTION jsonb_audit();

-- The plain trigger with the features that supa_audit documents: it reads the key's
-- columns from the catalogs, stores the keys of the old and the new row as uuid, and
-- has indexes on both keys and on the table's OID.
CREATE TABLE supa_component (LIKE poser_component INCLUDING ALL,
	FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid));
CREATE TABLE supa_version (
	id bigserial PRIMARY KEY,
	record_id uuid,
	old_record_id uuid,
	operation text NOT NULL,
	issued_at timestamptz NOT NULL DEFAULT now(),
	username text NOT NULL DEFAULT session_user,
	table_oid oid NOT NULL,
	table_schema name NOT NULL,
	table_name name NOT NULL,
	record jsonb,
	old_record jsonb
);
CREATE INDEX ON supa_version (record_id) WHERE record_id IS NOT NULL;
CREATE INDEX ON supa_version (old_record_id) WHERE old_record_id IS NOT NULL;
CREATE INDEX ON supa_version USING brin (issued_at);
CREATE INDEX ON supa_version (table_oid);

CREATE FUNCTION supa_key(relation oid) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
	SELECT pg_catalog.array_agg(attname::text ORDER BY attnum)
	  FROM pg_catalog.pg_index JOIN pg_catalog.pg_attribute
	       ON attrelid = indrelid AND attnum = ANY (indkey)
	 WHERE indrelid = relation AND indisprimary
$$;
CREATE FUNCTION supa_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
	key text[] := supa_key(TG_RELID);
	record jsonb := to_jsonb(NEW);
	old_record jsonb := to_jsonb(OLD);
BEGIN
	INSERT INTO supa_version (record_id, old_record_id, operation, table_oid, table_schema, table_name, record, old_record)
	VALUES ((record ->> key[1])::uuid, (old_record ->> key[1])::uuid, TG_OP, TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, record, old_record);
	RETURN NULL;
END
$$;
CREATE TRIGGER supa_audit AFTER INSERT OR UPDATE OR DELETE ON supa_component
	FOR EACH ROW EXECUTE FUNCTION supa_audit();

-- A trigger for each statement copies the rows from its transition table into a table
-- with the same columns and with Poser's indexes.  It also writes a row for each
-- transaction.  It assumes that an UPDATE changes each row that it touches, and no key.
CREATE TABLE typed_component (LIKE poser_component INCLUDING ALL,
	FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid));
CREATE SEQUENCE typed_id_seq;
CREATE TABLE typed_transaction (
	id bigint PRIMARY KEY DEFAULT nextval('typed_id_seq'),
	issued_at timestamptz NOT NULL DEFAULT now(),
	username text NOT NULL DEFAULT session_user,
	xact xid8 NOT NULL UNIQUE DEFAULT pg_current_xact_id()
);
CREATE INDEX ON typed_transaction (issued_at, id);
CREATE TABLE typed_version (
	uuid varchar(32),
	widget_uuid varchar(32),
	item_code varchar(20),
	description varchar(255),
	active boolean,
	operation_type smallint NOT NULL,
	transaction_id bigint NOT NULL,
	change_id bigint PRIMARY KEY DEFAULT nextval('typed_id_seq')
);
CREATE INDEX ON typed_version (uuid, change_id);
CREATE INDEX ON typed_version (widget_uuid);

CREATE FUNCTION typed_audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	transaction_id bigint;
BEGIN
	INSERT INTO typed_transaction DEFAULT VALUES ON CONFLICT (xact) DO NOTHING;
	SELECT id INTO STRICT transaction_id FROM typed_transaction WHERE xact = pg_current_xact_id();
	IF TG_OP = 'INSERT' THEN
		INSERT INTO typed_version SELECT r.*, 0, transaction_id FROM new_rows AS r;
	ELSIF TG_OP = 'UPDATE' THEN
		INSERT INTO typed_version SELECT r.*, 1, transaction_id FROM new_rows AS r;
	ELSE
		INSERT INTO typed_version SELECT r.*, 2, transaction_id FROM old_rows AS r;
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER typed_audit_insert AFTER INSERT ON typed_component
	REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION typed_audit();
CREATE TRIGGER typed_audit_update AFTER UPDATE ON typed_component
	REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION typed_audit();
CREATE TRIGGER typed_audit_delete AFTER DELETE ON typed_component
	REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION typed_audit();
