-- poser_recount() and poser_check() of a view with a key whose collation does not distinguish
-- all texts.  A server without ICU has no such collation, and another expected result.

SELECT count(*) = 0 AS no_icu FROM pg_collation WHERE collprovider = 'i' \gset
\if :no_icu
\quit
\endif
SET client_min_messages = warning;
CREATE EXTENSION poser;
CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE place (country text COLLATE ignore_case, zip int, PRIMARY KEY (zip, country));
CREATE TABLE parcel (country text COLLATE ignore_case, zip int, grams int, FOREIGN KEY (country, zip) REFERENCES place (country, zip));
CREATE VIEW place_parcels AS
SELECT p.country, p.zip, count(parcel.grams) AS parcels, sum(parcel.grams) AS grams
  FROM place p LEFT JOIN parcel ON parcel.country = p.country AND parcel.zip = p.zip
 GROUP BY p.country, p.zip;
INSERT INTO place VALUES ('de', 1), ('Fr', 1), ('de', 2);
INSERT INTO parcel VALUES ('DE', 1, 10), ('de', 1, 20), ('fR', 1, 40);
SELECT poser_maintain('place_parcels');
ALTER TABLE parcel DISABLE TRIGGER poser_maintain_insert;
INSERT INTO parcel VALUES ('De', 1, 100), ('FR', 1, 200), ('dE', 2, 400);
ALTER TABLE parcel ENABLE TRIGGER poser_maintain_insert;
SELECT lower(object) AS object, problem FROM poser_check();
SELECT poser_recount();
SELECT * FROM place_parcels ORDER BY country, zip;
SELECT zip, delta, parcels, grams FROM place_parcels_maintained ORDER BY country, zip, delta;
SELECT * FROM poser_check();
SELECT poser_recount();
DROP TABLE parcel, place, place_parcels_maintained CASCADE;
DROP COLLATION ignore_case;
DROP EXTENSION poser CASCADE;
