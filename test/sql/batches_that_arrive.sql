-- Batches that come from elsewhere, in a session like any other.
CREATE EXTENSION poser;
INSERT INTO poser_batch (uuid, id, target, created, created_by, role_name, row_count, complete, executed, executed_by)
OVERRIDING SYSTEM VALUE VALUES
	('open', 10, 'poser_widget', '2024-01-31', 'alice', 'maker', 1, false, NULL, NULL),
	('complete', 11, 'poser_widget', '2024-01-31', 'alice', 'maker', 2, true, NULL, NULL),
	('executed', 12, 'poser_widget', '2024-01-31', 'alice', 'maker', 1, true, '2024-02-29', 'bob'),
	('orphan', 13, '1', '2024-01-31', 'alice', 'maker', 0, false, NULL, NULL);

-- The headers keep their values.  Rows are counted when they come, but for a complete batch.
SELECT uuid, id, target, created::date, created_by, role_name, row_count, executed::date, executed_by FROM poser_batch ORDER BY id;
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new, removed) VALUES
	('open', 1, '{"uuid": "a"}', '{"description": "A"}', false),
	('complete', 1, '{"uuid": "b"}', '{"description": "B"}', false),
	('executed', 1, '{"uuid": "c"}', '{"description": "C"}', false);
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new, removed) VALUES
	('complete', 2, '{"uuid": "d"}', '{"description": "D"}', true);
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new, removed) VALUES
	('complete', 3, '{"uuid": "e"}', '{"description": "E"}', false);
SELECT uuid, row_count FROM poser_batch ORDER BY id;

-- When a complete batch has its rows, it takes no more.
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new) VALUES ('complete', 4, '{"uuid": "f"}', '{}');
UPDATE poser_batch_row SET new = '{}' WHERE batch_uuid = 'complete';
DELETE FROM poser_batch_row WHERE batch_uuid = 'complete';
SELECT uuid, row_count FROM poser_batch ORDER BY id;
SELECT * FROM poser_check();

-- The number of rows of a complete batch that do not come is reported.
INSERT INTO poser_batch (uuid, target, created_by, role_name, row_count, complete)
VALUES ('without', 'poser_widget', 'alice', 'maker', 2, true);
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new) VALUES ('without', 1, '{"uuid": "g"}', '{"description": "G"}');
SELECT * FROM poser_check();
-- it is not executed without them
\set VERBOSITY default
SELECT * FROM poser_batch_execute('without');
\set VERBOSITY terse
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new) VALUES ('without', 2, '{"uuid": "h"}', '{"description": "H"}');
SELECT * FROM poser_batch_execute('without');
DROP EXTENSION poser;
