-- The peer for writers: a counter trigger as it is usually written by hand.
CREATE TABLE counter_widget (LIKE poser_widget INCLUDING ALL);
CREATE TABLE counter_component (LIKE poser_component INCLUDING ALL,
	FOREIGN KEY (widget_uuid) REFERENCES counter_widget (uuid));
CREATE TABLE counter_count (widget_uuid varchar(32) PRIMARY KEY, total bigint NOT NULL);

CREATE FUNCTION counter_add() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO counter_count AS c VALUES (NEW.widget_uuid, 1)
	ON CONFLICT (widget_uuid) DO UPDATE SET total = c.total + 1;
	RETURN NULL;
END
$$;
CREATE TRIGGER counter_add AFTER INSERT ON counter_component
	FOR EACH ROW EXECUTE FUNCTION counter_add();

INSERT INTO counter_widget (uuid, description) VALUES ('1', 'A'), ('2', 'B'), ('3', 'C');
