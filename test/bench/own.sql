-- Own tables of the widgets' shape: poser_widget and poser_component, made by hand.
CREATE TABLE own_widget (LIKE poser_widget INCLUDING ALL);
CREATE TABLE own_component (LIKE poser_component INCLUDING ALL,
	FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid));
SELECT poser_track('own_widget'), poser_track('own_component');
-- the fixed table of versions has this index, for the histories of a widget's components
CREATE INDEX ON own_component_version (widget_uuid);
