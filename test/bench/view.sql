-- Maintained views and their peers.  view_widget and view_component are the tables of
-- the extension with another name and no trigger; the view view_summary is what
-- poser_widget_summary is.
CREATE TABLE view_widget (LIKE poser_widget INCLUDING ALL);
CREATE TABLE view_component (LIKE poser_component INCLUDING ALL,
	FOREIGN KEY (widget_uuid) REFERENCES view_widget (uuid));
CREATE VIEW view_summary WITH (security_invoker = true) AS
SELECT w.uuid, w.description, w.active,
       count(c.uuid) AS component_count, count(c.uuid) FILTER (WHERE c.active) AS active_component_count
  FROM view_widget w LEFT JOIN view_component c ON c.widget_uuid = w.uuid
 GROUP BY w.uuid;

-- A shop: plain_... without anything, peer_... for the peers.
CREATE TABLE customer (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	customer_id integer REFERENCES customer, status text NOT NULL, total numeric(10,2) NOT NULL);
CREATE INDEX ON orders (customer_id);
CREATE TABLE plain_orders (LIKE orders INCLUDING ALL, FOREIGN KEY (customer_id) REFERENCES customer);
CREATE TABLE peer_orders (LIKE orders INCLUDING ALL, FOREIGN KEY (customer_id) REFERENCES customer);
CREATE VIEW customer_orders AS
SELECT c.id AS customer_id, count(o.id) AS orders, count(o.id) FILTER (WHERE o.status = 'open') AS open_orders, sum(o.total) AS revenue
  FROM customer c LEFT JOIN orders o ON o.customer_id = c.id
 GROUP BY c.id;
CREATE VIEW customer_paid AS
SELECT c.id AS customer_id, count(o.id) AS paid
  FROM customer c LEFT JOIN orders o ON o.customer_id = c.id AND o.status = 'paid'
 GROUP BY c.id;
CREATE VIEW customer_revenue AS
SELECT c.id AS customer_id, COALESCE(sum(o.total), 0) AS revenue
  FROM customer c LEFT JOIN orders o ON o.customer_id = c.id
 GROUP BY c.id;

-- A counter trigger as it is usually written by hand.
CREATE TABLE peer_count (customer_id integer PRIMARY KEY, orders bigint NOT NULL, open_orders bigint NOT NULL, revenue numeric NOT NULL);
CREATE FUNCTION peer_add() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO peer_count AS c VALUES (NEW.customer_id, 1, (NEW.status = 'open')::int, NEW.total)
	ON CONFLICT (customer_id) DO UPDATE SET orders = c.orders + 1, open_orders = c.open_orders + excluded.open_orders,
		revenue = c.revenue + excluded.revenue;
	RETURN NULL;
END
$$;
CREATE TRIGGER peer_add AFTER INSERT ON peer_orders FOR EACH ROW EXECUTE FUNCTION peer_add();
