-- make web adds this to the demo: two roles that may log in, a table with a key of two
-- columns, and a batch to review.  psql's variable "password" is the password of both
-- roles.  make web makes a new one each time.

SET client_min_messages = warning;
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'demo') AS missing \gset
\if :missing
CREATE ROLE demo LOGIN;
CREATE ROLE reader LOGIN;
\endif
ALTER ROLE demo PASSWORD :'password';
ALTER ROLE reader PASSWORD :'password';
GRANT demo, reader TO poser_web;

SELECT to_regclass('duty') IS NULL AS missing \gset
\if :missing
CREATE TYPE task AS ENUM ('review', 'release', 'security');
CREATE TABLE duty (maintainer_id bigint REFERENCES maintainer, week date, task task NOT NULL DEFAULT 'review',
	hours numeric(4,1) CHECK (hours > 0), done boolean NOT NULL DEFAULT false, notes text,
	PRIMARY KEY (maintainer_id, week));
COMMENT ON TABLE duty IS 'Maintainers on duty, week by week';
COMMENT ON COLUMN duty.week IS 'its Monday';
SELECT poser_track('duty') \g /dev/null
INSERT INTO duty (maintainer_id, week, task, hours, done)
SELECT 1 + n % 2, date '2026-08-03' + 7 * n, (enum_range(NULL::task))[1 + n % 3], 4 + n % 5, n < 10 FROM generate_series(0, 19) AS n;
\endif

-- demo may change everything, and reader may see some of it.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO demo;
GRANT INSERT, UPDATE, DELETE ON poser_widget, poser_component, poser_batch, poser_batch_row, maintainer, upload, duty TO demo;
SELECT poser_datasync_grant('directory', 'demo') \g /dev/null
GRANT SELECT ON poser_widget, poser_component, poser_widget_summary, poser_widget_version, poser_component_version,
	poser_transaction, duty, duty_version, maintainer_uploads TO reader;
GRANT SELECT (id, name, mail, team) ON maintainer TO reader;

\if :missing
SET ROLE demo;
CREATE TEMPORARY TABLE news AS
SELECT uuid, CASE n WHEN 1 THEN upper(description) ELSE description END AS description, (n <> 2)::text AS active
FROM (SELECT *, row_number() OVER (ORDER BY uuid) AS n FROM poser_widget) AS w WHERE n < 4
UNION ALL VALUES ('', 'poser: counts, history and batches for PostgreSQL', 'true'), ('', 'this row is wrong', 'perhaps');
SELECT poser_batch_create('poser_widget', 'News of November') AS batch \gset
SELECT poser_batch_populate(:'batch', 'news') \g /dev/null
SELECT poser_batch_refresh(:'batch') \g /dev/null
DROP TABLE news;
RESET ROLE;
\endif
