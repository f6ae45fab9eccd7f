\echo Use "ALTER EXTENSION poser UPDATE TO '1.4'" to load this file. \quit

-- Datasync: every change reaches every consumer.  By its xact a transaction is
-- found in snapshots, and by its consumer one knows whose handler has made it.

ALTER TABLE @extschema@.poser_transaction ADD COLUMN consumer pg_catalog.name;

COMMENT ON COLUMN @extschema@.poser_transaction.consumer IS
'the datasync consumer whose handler has made the changes; null for all others';

CREATE INDEX poser_transaction_idx_xact
	ON @extschema@.poser_transaction (xact);

-- Consumers and their positions

CREATE TABLE @extschema@.poser_datasync_consumer (
	consumer pg_catalog.name NOT NULL,
	handler pg_catalog.text,
	runas pg_catalog.text,
	notify pg_catalog.bool NOT NULL DEFAULT false,
	own_changes pg_catalog.bool NOT NULL DEFAULT false,
	own_after pg_catalog.int8 NOT NULL DEFAULT 0,
	roles pg_catalog.name[] NOT NULL DEFAULT '{}',
	from_snapshot pg_catalog.pg_snapshot,
	to_snapshot pg_catalog.pg_snapshot,
	confirmed pg_catalog.int8 NOT NULL DEFAULT 0,
	delivered pg_catalog.int8 NOT NULL DEFAULT 0,
	last_change pg_catalog.int8 NOT NULL DEFAULT 0,
	settled pg_catalog.int8 NOT NULL DEFAULT 0,
	next_settled pg_catalog.int8,
	next_settled_xact pg_catalog.xid8,
	last_confirmed_at pg_catalog.timestamptz,
	attempts pg_catalog.int4 NOT NULL DEFAULT 0,
	last_error pg_catalog.text,
	last_failed_at pg_catalog.timestamptz,
	failed_change_id pg_catalog.int8,
	CONSTRAINT poser_datasync_consumer_pkey PRIMARY KEY (consumer)
) WITH (fillfactor = 50);

COMMENT ON TABLE @extschema@.poser_datasync_consumer IS
'datasync consumers: where each is, and what its handler came to';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.consumer IS 'key, its name';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.handler IS
'the function that poser_datasync_run() calls for each change, qualified; can be changed';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.runas IS
'poser.runas while the handler runs; null to leave it; can be changed';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.notify IS
'whether it asks for NOTIFY poser_datasync; can be changed';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.own_changes IS
'whether it is given what its own handler has changed; can be changed';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.own_after IS
'its own are those marked with its name whose transaction is after this one';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.roles IS
'who may consume beside the owner: see poser_datasync_grant()';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.from_snapshot IS
'changes of transactions that this has seen are confirmed; null at the beginning';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.to_snapshot IS
'changes that this has seen, and from_snapshot has not, are being delivered; null when there are none';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.confirmed IS
'of those, the changes up to this change_id are confirmed; with from_snapshot null, of all';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.delivered IS 'of those, the last change that was delivered';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.last_change IS 'of those, no change is after this one';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.settled IS
'changes that the last of the two snapshots has not seen have a greater change_id; it is what a restore starts from';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.next_settled IS
'what settled will be once all transactions before next_settled_xact are over';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.next_settled_xact IS 'see next_settled';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.last_confirmed_at IS 'when it last confirmed changes';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.attempts IS
'how often the handler has failed at failed_change_id';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.last_error IS 'what the handler said the last time';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.last_failed_at IS 'when it last failed';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.failed_change_id IS
'the change that it fails at; null when it does not';

CREATE TABLE @extschema@.poser_datasync_skipped (
	consumer pg_catalog.name NOT NULL,
	change_id pg_catalog.int8 NOT NULL,
	reason pg_catalog.text NOT NULL,
	skipped_at pg_catalog.timestamptz NOT NULL,
	username pg_catalog.text NOT NULL,
	role_name pg_catalog.name NOT NULL,
	error pg_catalog.text
);

ALTER TABLE @extschema@.poser_datasync_skipped REPLICA IDENTITY FULL;

COMMENT ON TABLE @extschema@.poser_datasync_skipped IS 'changes that consumers have passed over';
COMMENT ON COLUMN @extschema@.poser_datasync_skipped.consumer IS 'the consumer';
COMMENT ON COLUMN @extschema@.poser_datasync_skipped.change_id IS 'the change';
COMMENT ON COLUMN @extschema@.poser_datasync_skipped.reason IS 'why';
COMMENT ON COLUMN @extschema@.poser_datasync_skipped.skipped_at IS 'when';
COMMENT ON COLUMN @extschema@.poser_datasync_skipped.username IS
'in whose name: the setting poser.runas, or else the session''s user';
COMMENT ON COLUMN @extschema@.poser_datasync_skipped.role_name IS 'the role that did it';
COMMENT ON COLUMN @extschema@.poser_datasync_skipped.error IS 'what the handler had said, if it was that change';

-- A consumer that is restored or replicated starts from what is settled.

CREATE FUNCTION @extschema@.poser_datasync_arrive()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_datasync_arrive'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_datasync_arrive() IS
'sets the position of a consumer that is restored or replicated';

CREATE TRIGGER poser_datasync_arrive
	BEFORE INSERT ON @extschema@.poser_datasync_consumer
	FOR EACH ROW EXECUTE FUNCTION @extschema@.poser_datasync_arrive();
CREATE TRIGGER poser_datasync_arrive_update
	BEFORE UPDATE ON @extschema@.poser_datasync_consumer
	FOR EACH ROW EXECUTE FUNCTION @extschema@.poser_datasync_arrive();

ALTER TABLE @extschema@.poser_datasync_consumer
	ENABLE ALWAYS TRIGGER poser_datasync_arrive,
	ENABLE REPLICA TRIGGER poser_datasync_arrive_update;

CREATE FUNCTION @extschema@.poser_datasync_changed()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_datasync_changed'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_datasync_changed() IS
'has all sessions look again whether a consumer asks for NOTIFY';

CREATE TRIGGER poser_datasync_changed
	AFTER INSERT OR UPDATE OF notify OR DELETE OR TRUNCATE ON @extschema@.poser_datasync_consumer
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_datasync_changed();

ALTER TABLE @extschema@.poser_datasync_consumer ENABLE ALWAYS TRIGGER poser_datasync_changed;

-- The feed

CREATE TYPE @extschema@.poser_change AS (
	change_id pg_catalog.int8,
	transaction_id pg_catalog.int8,
	issued_at pg_catalog.timestamptz,
	username pg_catalog.text,
	payload_type pg_catalog.name,
	payload_key pg_catalog.text,
	deletion pg_catalog.bool,
	payload pg_catalog.jsonb
);

COMMENT ON TYPE @extschema@.poser_change IS 'a change of a row: what a datasync consumer gets';
COMMENT ON COLUMN @extschema@.poser_change.change_id IS 'which one: the order of all changes';
COMMENT ON COLUMN @extschema@.poser_change.transaction_id IS 'poser_transaction.id';
COMMENT ON COLUMN @extschema@.poser_change.issued_at IS 'when the transaction first changed something';
COMMENT ON COLUMN @extschema@.poser_change.username IS 'in whose name';
COMMENT ON COLUMN @extschema@.poser_change.payload_type IS 'the table';
COMMENT ON COLUMN @extschema@.poser_change.payload_key IS
'the row: its key as text; of a key of several columns, a JSON array';
COMMENT ON COLUMN @extschema@.poser_change.deletion IS 'whether the row was deleted';
COMMENT ON COLUMN @extschema@.poser_change.payload IS 'the row after the change; of a deleted one, the last it was';

CREATE FUNCTION @extschema@.poser_datasync_add(
	consumer pg_catalog.name, start pg_catalog.text DEFAULT 'now',
	handler pg_catalog.regprocedure DEFAULT NULL, runas pg_catalog.text DEFAULT NULL,
	notify pg_catalog.bool DEFAULT false, own_changes pg_catalog.bool DEFAULT false)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_datasync_add'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_datasync_add(
	pg_catalog.name, pg_catalog.text, pg_catalog.regprocedure, pg_catalog.text, pg_catalog.bool, pg_catalog.bool) IS
'makes a consumer, which is given every change from now on, or from the beginning';

CREATE FUNCTION @extschema@.poser_datasync_drop(consumer pg_catalog.name)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_datasync_drop'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_datasync_drop(pg_catalog.name) IS
'removes a consumer and its position';

CREATE FUNCTION @extschema@.poser_datasync_grant(consumer pg_catalog.name, role pg_catalog.name)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_datasync_grant'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_datasync_grant(pg_catalog.name, pg_catalog.name) IS
'allows a role to work for a consumer';

CREATE FUNCTION @extschema@.poser_datasync_revoke(consumer pg_catalog.name, role pg_catalog.name)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_datasync_revoke'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_datasync_revoke(pg_catalog.name, pg_catalog.name) IS
'takes back what poser_datasync_grant() has allowed';

CREATE FUNCTION @extschema@.poser_datasync_changes(
	consumer pg_catalog.name, max_changes pg_catalog.int4 DEFAULT 1000)
RETURNS SETOF @extschema@.poser_change
AS 'MODULE_PATHNAME', 'poser_datasync_changes'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_datasync_changes(pg_catalog.name, pg_catalog.int4) IS
'the next changes for a consumer, the same until they are confirmed';

CREATE FUNCTION @extschema@.poser_datasync_confirm(
	consumer pg_catalog.name, change_id pg_catalog.int8)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_datasync_confirm'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_datasync_confirm(pg_catalog.name, pg_catalog.int8) IS
'says that a consumer is done with what was delivered, up to this change';

CREATE FUNCTION @extschema@.poser_datasync_run(
	consumer pg_catalog.name, max_changes pg_catalog.int4 DEFAULT 1000)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_datasync_run'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_datasync_run(pg_catalog.name, pg_catalog.int4) IS
'calls a consumer''s handler for the next changes, and confirms them; returns how many';

CREATE FUNCTION @extschema@.poser_datasync_skip(
	consumer pg_catalog.name, change_id pg_catalog.int8, reason pg_catalog.text)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_datasync_skip'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_datasync_skip(pg_catalog.name, pg_catalog.int8, pg_catalog.text) IS
'passes over the next change for a consumer, and keeps a record of it';

-- Watching

CREATE FUNCTION @extschema@.poser_datasync_pending(
	consumer pg_catalog.name,
	OUT pending pg_catalog.int8, OUT oldest pg_catalog.timestamptz, OUT age pg_catalog.interval,
	OUT stale pg_catalog.bool, OUT transaction_id pg_catalog.int8)
AS 'MODULE_PATHNAME', 'poser_datasync_pending'
LANGUAGE C STABLE;

COMMENT ON FUNCTION @extschema@.poser_datasync_pending(pg_catalog.name) IS
'for poser_datasync_status: what a consumer has not confirmed';

CREATE VIEW @extschema@.poser_datasync_status AS
	SELECT c.consumer, c.handler, c.runas, c.notify,
		   p.pending, p.oldest, p.age, p.stale,
		   COALESCE(p.transaction_id OPERATOR(pg_catalog.=)
					pg_catalog.min(p.transaction_id) OVER (), false) AS holds_pruning,
		   c.last_confirmed_at, c.attempts, c.last_error, c.last_failed_at, c.failed_change_id
	  FROM @extschema@.poser_datasync_consumer AS c,
		   LATERAL @extschema@.poser_datasync_pending(c.consumer) AS p;

COMMENT ON VIEW @extschema@.poser_datasync_status IS 'how far the consumers are behind, and why';
COMMENT ON COLUMN @extschema@.poser_datasync_status.consumer IS 'its name';
COMMENT ON COLUMN @extschema@.poser_datasync_status.handler IS 'the function that handles changes';
COMMENT ON COLUMN @extschema@.poser_datasync_status.runas IS 'in whose name it does';
COMMENT ON COLUMN @extschema@.poser_datasync_status.notify IS 'whether it asks for NOTIFY';
COMMENT ON COLUMN @extschema@.poser_datasync_status.pending IS
'how many changes it has not confirmed';
COMMENT ON COLUMN @extschema@.poser_datasync_status.oldest IS 'when the oldest of them was made';
COMMENT ON COLUMN @extschema@.poser_datasync_status.age IS 'how long ago that was';
COMMENT ON COLUMN @extschema@.poser_datasync_status.stale IS
'whether that is longer than the setting poser.datasync_stale_after';
COMMENT ON COLUMN @extschema@.poser_datasync_status.holds_pruning IS
'whether poser_prune_versions() stops at what it has not confirmed';
COMMENT ON COLUMN @extschema@.poser_datasync_status.last_confirmed_at IS 'when it last confirmed changes';
COMMENT ON COLUMN @extschema@.poser_datasync_status.attempts IS 'how often its handler has failed at this change';
COMMENT ON COLUMN @extschema@.poser_datasync_status.last_error IS 'what the handler said';
COMMENT ON COLUMN @extschema@.poser_datasync_status.last_failed_at IS 'when it last failed';
COMMENT ON COLUMN @extschema@.poser_datasync_status.failed_change_id IS 'the change that it fails at';

CREATE FUNCTION @extschema@.poser_datasync_stale(older_than pg_catalog.interval DEFAULT NULL)
RETURNS TABLE (consumer pg_catalog.name)
LANGUAGE SQL STABLE
BEGIN ATOMIC
	SELECT s.consumer
	  FROM @extschema@.poser_datasync_status AS s
	 WHERE CASE WHEN $1 IS NULL THEN s.stale ELSE s.age OPERATOR(pg_catalog.>) $1 END
	 ORDER BY s.consumer;
END;

COMMENT ON FUNCTION @extschema@.poser_datasync_stale(pg_catalog.interval) IS
'consumers with changes pending for longer than this, or than poser.datasync_stale_after';

COMMENT ON FUNCTION @extschema@.poser_prune_versions(pg_catalog.interval, pg_catalog.int8) IS
'removes versions that others have followed longer ago than this, and no consumer needs, at most max_versions; returns how many';

-- Ownership and privileges, as in 1.3.

DO LANGUAGE plpgsql $do$
DECLARE
	owner pg_catalog.oid := (SELECT relowner
							   FROM pg_catalog.pg_class
							  WHERE oid OPERATOR(pg_catalog.=)
									'@extschema@.poser_component'::pg_catalog.regclass);
	object pg_catalog.text;
	acl pg_catalog.aclitem[];
	grantee pg_catalog.oid;
BEGIN
	FOR object, acl IN
		SELECT pg_catalog.concat('TABLE ', oid::pg_catalog.regclass), relacl
		  FROM pg_catalog.pg_class
		 WHERE oid OPERATOR(pg_catalog.=) ANY
			   (ARRAY['@extschema@.poser_datasync_consumer'::pg_catalog.regclass,
					  '@extschema@.poser_datasync_skipped'::pg_catalog.regclass,
					  '@extschema@.poser_datasync_status'::pg_catalog.regclass]::pg_catalog.oid[])
		UNION ALL
		SELECT pg_catalog.concat('FUNCTION ', oid::pg_catalog.regprocedure),
			   COALESCE(proacl, pg_catalog.acldefault('f', proowner))
		  FROM pg_catalog.pg_proc
		 WHERE oid OPERATOR(pg_catalog.=) ANY
			   (ARRAY['@extschema@.poser_datasync_arrive()'::pg_catalog.regprocedure,
					  '@extschema@.poser_datasync_changed()'::pg_catalog.regprocedure]::pg_catalog.oid[])
	LOOP
		FOR grantee IN SELECT DISTINCT a.grantee FROM pg_catalog.aclexplode(acl) AS a
		LOOP
			EXECUTE pg_catalog.concat('REVOKE ALL ON ', object, ' FROM ',
									  CASE WHEN grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
										   ELSE grantee::pg_catalog.regrole::pg_catalog.text END);
		END LOOP;
		IF object OPERATOR(pg_catalog.~~) 'TABLE %' THEN
			EXECUTE pg_catalog.concat('ALTER ', object, ' OWNER TO ', owner::pg_catalog.regrole);
		END IF;
		EXECUTE pg_catalog.concat('GRANT ALL ON ', object, ' TO ', owner::pg_catalog.regrole);
	END LOOP;
	EXECUTE pg_catalog.concat('ALTER TYPE @extschema@.poser_change OWNER TO ', owner::pg_catalog.regrole);
END
$do$;

GRANT USAGE ON TYPE @extschema@.poser_change TO PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.poser_datasync_add(
		pg_catalog.name, pg_catalog.text, pg_catalog.regprocedure, pg_catalog.text, pg_catalog.bool, pg_catalog.bool),
	@extschema@.poser_datasync_drop(pg_catalog.name),
	@extschema@.poser_datasync_grant(pg_catalog.name, pg_catalog.name),
	@extschema@.poser_datasync_revoke(pg_catalog.name, pg_catalog.name),
	@extschema@.poser_datasync_changes(pg_catalog.name, pg_catalog.int4),
	@extschema@.poser_datasync_confirm(pg_catalog.name, pg_catalog.int8),
	@extschema@.poser_datasync_run(pg_catalog.name, pg_catalog.int4),
	@extschema@.poser_datasync_skip(pg_catalog.name, pg_catalog.int8, pg_catalog.text),
	@extschema@.poser_datasync_pending(pg_catalog.name),
	@extschema@.poser_datasync_stale(pg_catalog.interval)
	TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_datasync_consumer', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_datasync_skipped', '');
