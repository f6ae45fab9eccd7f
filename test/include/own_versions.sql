\set ECHO none
-- Two tracked tables with composite keys.  Lines follow their invoice by cascades.
CREATE TABLE invoice (number numeric, note text, year int, PRIMARY KEY (year, number));
CREATE TABLE invoice_line (year int, number numeric, line int, item text, PRIMARY KEY (number, year, line),
	CONSTRAINT line_of_invoice FOREIGN KEY (year, number) REFERENCES invoice ON UPDATE CASCADE ON DELETE CASCADE);
SELECT FROM poser_track('invoice');
SELECT FROM poser_track('invoice_line');

-- The recorded changes in their order.  Transaction ids are replaced by numbers from 1.
CREATE VIEW changes AS
SELECT dense_rank() OVER (ORDER BY transaction_id) AS transaction, relation,
       (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation, key, value
  FROM (SELECT transaction_id, change_id, operation_type, 'invoice' AS relation, concat_ws('/', year, number) AS key, note AS value
          FROM invoice_version
        UNION ALL
        SELECT transaction_id, change_id, operation_type, 'line', concat_ws('/', year, number, line), item
          FROM invoice_line_version) AS version
 ORDER BY change_id;

-- The same sorted by row: different rows may be changed in any order.
CREATE VIEW by_row AS
SELECT transaction, relation, operation, key, value
  FROM (SELECT *, row_number() OVER () AS place FROM changes) AS placed
 ORDER BY relation, key COLLATE "C", place;

-- What is wrong in the histories.  The view must be empty: the first version of a row is an
-- insert; an insert follows a delete, an update or a delete follows anything else; an update
-- changes something; the last version is the row as it is; each version has a transaction,
-- with a smaller id.  The keys are compared as numerics, the rows as texts.
CREATE VIEW wrong_histories AS
WITH live AS (
	SELECT 'invoice' AS relation, year, number, NULL::int AS line, concat_ws('/', year, number, note) AS "row" FROM invoice
	UNION ALL
	SELECT 'line', year, number, line, concat_ws('/', year, number, line, item) FROM invoice_line),
version AS (
	SELECT 'invoice' AS relation, year, number, NULL::int AS line, concat_ws('/', year, number, note) AS "row",
	       operation_type, transaction_id, change_id FROM invoice_version
	UNION ALL
	SELECT 'line', year, number, line, concat_ws('/', year, number, line, item),
	       operation_type, transaction_id, change_id FROM invoice_line_version),
placed AS (
	SELECT *, lag(operation_type) OVER own AS before, lag("row") OVER own AS row_before, lead(change_id) OVER own IS NULL AS is_last
	  FROM version WINDOW own AS (PARTITION BY relation, year, number, line ORDER BY change_id))
SELECT relation, "row", 'is out of order' AS problem
  FROM placed WHERE (operation_type = 0) <> (before IS NULL OR before = 2)
UNION ALL
SELECT relation, "row", 'changes nothing'
  FROM placed WHERE operation_type = 1 AND "row" = row_before
UNION ALL
SELECT relation, coalesce(live.row, last.row), 'does not end in the row'
  FROM live FULL JOIN (SELECT * FROM placed WHERE is_last AND operation_type <> 2) AS last USING (relation, "row")
 WHERE live.row IS NULL OR last.row IS NULL
UNION ALL
SELECT relation, "row", 'has no transaction before it'
  FROM version
 WHERE NOT EXISTS (SELECT FROM poser_transaction WHERE id = transaction_id AND id < change_id)
UNION ALL
SELECT object, NULL, problem FROM poser_check();

-- Empty tables.  Only what follows is shown.
CREATE PROCEDURE start_afresh() LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE invoice, invoice_line;
	ALTER TABLE invoice_version DISABLE TRIGGER poser_versions_of_truncate;
	ALTER TABLE invoice_line_version DISABLE TRIGGER poser_versions_of_truncate;
	TRUNCATE invoice_version, invoice_line_version, poser_transaction;
	ALTER TABLE invoice_version ENABLE ALWAYS TRIGGER poser_versions_of_truncate;
	ALTER TABLE invoice_line_version ENABLE ALWAYS TRIGGER poser_versions_of_truncate;
END
$$;
\set ECHO all
