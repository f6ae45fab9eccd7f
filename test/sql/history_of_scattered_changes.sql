-- A history has the right transaction with each version, whether a row's transactions
-- follow each other, have few or many others between them, or are missing.

CREATE EXTENSION poser;
-- what the history of widgets and of components should be
CREATE VIEW expected AS
SELECT v.uuid, v.transaction_id, t.issued_at, t.username, t.role_name, t.comment, v.description
  FROM (SELECT uuid, transaction_id, description FROM poser_widget_version
		UNION ALL
		SELECT uuid, transaction_id, description FROM poser_component_version) AS v
	   LEFT JOIN poser_transaction AS t ON t.id = v.transaction_id;
CREATE VIEW reported AS
SELECT h.uuid, h.transaction_id, h.issued_at, h.username, h.role_name, h.comment, h.description
  FROM poser_widget AS w, poser_widget_history(w.uuid) AS h
UNION ALL
SELECT h.uuid, h.transaction_id, h.issued_at, h.username, h.role_name, h.comment, h.description
  FROM poser_component AS c, poser_component_history(c.uuid) AS h;
CREATE VIEW differences AS
(TABLE expected EXCEPT ALL TABLE reported) UNION ALL (TABLE reported EXCEPT ALL TABLE expected);

-- widget n changes in every nth of 400 transactions
INSERT INTO poser_widget (uuid, description) SELECT n, '0' FROM unnest('{1, 2, 7, 8, 9, 10, 50}'::int[]) AS n;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) SELECT 'c' || n, 7, '', '0' FROM generate_series(1, 30) AS n;
DO $$
BEGIN
	FOR i IN 1 .. 400 LOOP
		-- another comment makes another row of poser_transaction
		PERFORM set_config('poser.comment', i::text, true);
		UPDATE poser_widget SET description = i WHERE i % uuid::int = 0;
		UPDATE poser_component SET description = i WHERE i % 30 = substr(uuid, 2)::int % 30;
	END LOOP;
END
$$;
SELECT count(*) FROM poser_transaction;
SELECT count(*), count(comment) FROM reported;
SELECT * FROM differences;
SELECT count(*), count(DISTINCT comment) FROM poser_widget_history('7', with_components => true);
SELECT uuid, transaction_id, comment FROM poser_widget_history('7', true)
EXCEPT SELECT uuid, transaction_id, comment FROM expected;

-- transactions are missing: single ones, all up to one, and the latest
DELETE FROM poser_transaction WHERE comment::int % 16 IN (0, 1);
SELECT count(*), count(comment) FROM reported;
SELECT * FROM differences;
DELETE FROM poser_transaction WHERE comment::int < 100 OR comment::int > 380;
SELECT count(*), count(comment) FROM reported;
SELECT * FROM differences;
DELETE FROM poser_transaction;
SELECT count(*), count(comment) FROM reported;
SELECT * FROM differences;

DROP VIEW differences, expected, reported;
DROP EXTENSION poser;
