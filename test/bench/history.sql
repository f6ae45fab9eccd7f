-- :widgets widgets with :versions versions each, as if so many transactions, one an
-- hour, had each changed all widgets.  The rows are written directly into the tables
-- of the history, and the indexes are made afterwards.  The triggers that record
-- versions must be disabled.  Those for history that arrives look up rows by the index.
ALTER TABLE poser_transaction DISABLE TRIGGER USER;
ALTER TABLE poser_widget_version DISABLE TRIGGER USER;
ALTER TABLE poser_widget_version DROP CONSTRAINT poser_widget_version_pkey;
DROP INDEX poser_widget_version_idx_key;

INSERT INTO poser_widget (uuid, description)
SELECT md5(w::text), 'Widget ' || w || ', version ' || :versions
  FROM generate_series(1, :widgets) AS w;
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact)
SELECT (:widgets + 1) * (v - 1) + 1, '2020-01-01 00:00:00+00'::timestamptz + v * interval '1 hour',
	   session_user, session_user, pg_current_xact_id()
  FROM generate_series(1, :versions::bigint) AS v;
INSERT INTO poser_widget_version (uuid, description, active, operation_type, transaction_id, change_id)
SELECT md5(w::text), 'Widget ' || w || ', version ' || v, true, CASE v WHEN 1 THEN 0 ELSE 1 END,
	   (:widgets + 1) * (v - 1) + 1, (:widgets + 1) * (v - 1) + 1 + w
  FROM generate_series(1, :versions::bigint) AS v, generate_series(1, :widgets) AS w;
SELECT setval('poser_change_id_seq', max(change_id)) FROM poser_widget_version;

ALTER TABLE poser_widget_version
	ADD CONSTRAINT poser_widget_version_pkey PRIMARY KEY (change_id);
CREATE INDEX poser_widget_version_idx_key
	ON poser_widget_version (uuid, change_id);
ALTER TABLE poser_widget_version ENABLE TRIGGER USER;
ALTER TABLE poser_transaction ENABLE TRIGGER USER, ENABLE ALWAYS TRIGGER poser_transaction_arrive;
