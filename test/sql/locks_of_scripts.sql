-- Scripts call poser_lock_tables() to lock all tables that they touch.

CREATE EXTENSION poser;
CREATE TABLE heir () INHERITS (poser_widget_version);
CREATE TABLE heir_of_heir () INHERITS (heir);
CREATE FUNCTION held() RETURNS TABLE (relation regclass, mode text) LANGUAGE sql AS $$
	SELECT relation::regclass, mode FROM pg_locks
	 WHERE locktype = 'relation' AND pid = pg_backend_pid() AND relation >= 16384
	 ORDER BY relation::regclass::text COLLATE "C", mode COLLATE "C"
$$;

-- each mode of LOCK; the tables are found in the extension's schema
BEGIN;
SET LOCAL search_path = pg_catalog;
SELECT public.poser_lock_tables(ARRAY[
	['poser_widget', 'ACCESS SHARE'], ['poser_component', 'ROW SHARE'],
	['poser_transaction', 'ROW EXCLUSIVE'], ['poser_batch', 'SHARE UPDATE EXCLUSIVE'],
	['poser_batch_row', 'SHARE'], ['poser_datasync_consumer', 'SHARE ROW EXCLUSIVE'],
	['poser_version_horizon', 'EXCLUSIVE'], ['poser_component_version', 'ACCESS EXCLUSIVE']]);
SELECT * FROM public.held();
COMMIT;

-- tables that inherit, and the time that later statements wait
BEGIN;
SELECT poser_lock_tables('{{poser_widget_version,ACCESS EXCLUSIVE}}');
SELECT * FROM held();
SHOW lock_timeout;
ROLLBACK;
SHOW lock_timeout;

-- errors
BEGIN;
SELECT poser_lock_tables('{{poser_nothing,SHARE}}');
ROLLBACK;
SELECT poser_lock_tables('{{poser_widget,EXCLUSIVELY}}');
SELECT poser_lock_tables('{poser_widget,SHARE}');
SELECT poser_lock_tables('{{poser_widget},{SHARE}}');
SELECT poser_lock_tables('{{poser_widget,NULL}}');
SELECT poser_lock_tables('{}');
SELECT poser_lock_tables(NULL);
CREATE ROLE regress_poser_maker;
GRANT EXECUTE ON FUNCTION poser_lock_tables(text[]) TO regress_poser_maker;
SET ROLE regress_poser_maker;
SELECT poser_lock_tables('{{poser_widget,ACCESS SHARE}}');
RESET ROLE;

DROP TABLE heir, heir_of_heir;

-- tables that the transaction has made: no other session waits for the script, so it waits as long as the user wants
BEGIN;
DROP EXTENSION poser;
CREATE EXTENSION poser;
SELECT poser_lock_tables('{{poser_widget,SHARE},{poser_widget_version,ACCESS EXCLUSIVE}}');
SHOW lock_timeout;
COMMIT;
BEGIN;
CREATE TABLE poser_new ();
SELECT poser_lock_tables('{{poser_new,SHARE},{poser_widget,SHARE}}');
SHOW lock_timeout;
ROLLBACK;

DROP FUNCTION held();
DROP EXTENSION poser;
DROP ROLE regress_poser_maker;
