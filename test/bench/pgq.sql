-- The peer for datasync: PgQ.  Its trigger puts each change of a row into a queue, as
-- JSON.  The table has the columns of poser_component and no other trigger.  Poser
-- also counts components, and keeps its history.
CREATE EXTENSION pgq;
SELECT pgq.create_queue('changes');
SELECT pgq.register_consumer('changes', 'consumer');

CREATE TABLE pgq_component (LIKE poser_component INCLUDING ALL,
	FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid));
CREATE TRIGGER pgq_component AFTER INSERT OR UPDATE OR DELETE ON pgq_component
	FOR EACH ROW EXECUTE FUNCTION pgq.jsontriga('changes');
