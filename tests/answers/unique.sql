-- UNIQUE beside the primary key, on all ways to write.
CREATE TABLE u (id int PRIMARY KEY, a text UNIQUE, b int, c int, UNIQUE (b, c));
INSERT INTO u VALUES (1, 'x', 1, 1), (2, 'y', 1, 2), (3, NULL, 1, NULL), (4, NULL, 1, NULL);
INSERT INTO u VALUES (5, 'x', 9, 9);
INSERT INTO u VALUES (5, 'z', 1, 2);
INSERT INTO u VALUES (5, 'v', 8, 8), (6, 'v', 9, 9);
INSERT INTO u VALUES (5, 'v', 8, 8), (6, 'w', 8, 8);
INSERT INTO u VALUES (5, 'v', NULL, 8), (6, 'w', NULL, 8);
UPDATE u SET a = 'y' WHERE id = 1;
UPDATE u SET a = 'x' WHERE id = 1;
UPDATE u SET id = 10 WHERE id = 1;
UPDATE u SET a = 'x' WHERE id = 2;
UPDATE u SET a = NULL WHERE id = 10;
UPDATE u SET a = 'x' WHERE id = 2;
INSERT INTO u VALUES (7, 'y', 7, 7) RETURNING *;
UPDATE u SET b = 7, c = 7 WHERE id = 2;
DELETE FROM u WHERE id = 7 RETURNING a;
UPDATE u SET b = 7, c = 7 WHERE id = 2;
SELECT * FROM u ORDER BY id;
DELETE FROM u USING (VALUES (5), (6)) AS v (k) WHERE id = k;
INSERT INTO u VALUES (5, 'v', NULL, 8), (6, 'w', NULL, 8);
COPY u FROM stdin (DELIMITER ',');
20,copied,20,20
21,x,21,21
\.
COPY u FROM stdin (DELIMITER ',');
20,copied,20,20
21,copied too,20,20
\.
COPY u FROM stdin (DELIMITER ',');
20,copied,20,20
21,copied too,20,21
\.
SELECT * FROM u ORDER BY id;
-- ON CONFLICT.
INSERT INTO u VALUES (30, 'x', 0, 0) ON CONFLICT DO NOTHING;
INSERT INTO u VALUES (20, 'new', 0, 0) ON CONFLICT DO NOTHING;
INSERT INTO u VALUES (30, 'new', 20, 20) ON CONFLICT DO NOTHING;
INSERT INTO u VALUES (30, 'new', 0, 0), (31, 'new', 0, 1), (32, 'newer', 0, 0) ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO u VALUES (30, 'other', 0, 5) ON CONFLICT (a) DO NOTHING;
INSERT INTO u VALUES (33, 'x', 0, 5) ON CONFLICT (id) DO NOTHING;
INSERT INTO u VALUES (40, 'x', 40, 40) ON CONFLICT (a) DO UPDATE SET b = excluded.b, c = u.id RETURNING *;
INSERT INTO u VALUES (40, 'x', 40, 40) ON CONFLICT (a) DO UPDATE SET id = excluded.id RETURNING *;
INSERT INTO u VALUES (41, 'x', 40, 40) ON CONFLICT (a) DO UPDATE SET a = 'moved' RETURNING *;
INSERT INTO u VALUES (41, 'x', 41, 41) ON CONFLICT (a) DO UPDATE SET a = 'never';
INSERT INTO u VALUES (50, 'q', 41, 41) ON CONFLICT (c, b) DO UPDATE SET a = excluded.a || u.a RETURNING *;
INSERT INTO u VALUES (50, 'new', 41, 41) ON CONFLICT (c, b) DO UPDATE SET a = excluded.a;
INSERT INTO u VALUES (50, 'copied', 41, 41) ON CONFLICT (b, c) DO UPDATE SET a = excluded.a WHERE u.id > 1000;
INSERT INTO u VALUES (50, 'm', 41, 41), (51, 'n', 41, 41) ON CONFLICT (b, c) DO UPDATE SET a = excluded.a;
INSERT INTO u VALUES (50, 'm', NULL, NULL), (51, 'n', NULL, NULL) ON CONFLICT (b, c) DO UPDATE SET a = 'not';
INSERT INTO u VALUES (50, 'k', 1, 1) ON CONFLICT (b) DO NOTHING;
INSERT INTO u VALUES (50, 'k', 1, 1) ON CONFLICT ON CONSTRAINT u_a_key DO UPDATE SET c = 77;
INSERT INTO u VALUES (52, 'm', 52, 52) ON CONFLICT ON CONSTRAINT u_a_key DO UPDATE SET c = 77;
INSERT INTO u VALUES (52, 'm', 52, 52) ON CONFLICT ON CONSTRAINT nosuch DO NOTHING;
SELECT * FROM u ORDER BY id;
-- Many at once: values that move over each other, and within one transaction.
CREATE TABLE m (id int PRIMARY KEY, k int NOT NULL UNIQUE);
INSERT INTO m SELECT g, g FROM generate_series(1, 3000) AS g;
INSERT INTO m SELECT g + 10000, g FROM generate_series(5000, 2999, -1) AS g;
UPDATE m SET k = -k;
UPDATE m SET k = 1 WHERE id IN (5, 6);
BEGIN;
DELETE FROM m WHERE id <= 1000;
INSERT INTO m SELECT g + 20000, -g FROM generate_series(1, 1000) AS g;
SAVEPOINT s;
INSERT INTO m VALUES (0, -1000);
ROLLBACK TO s;
DELETE FROM m WHERE k = -1000;
INSERT INTO m VALUES (0, -1000);
SAVEPOINT s;
INSERT INTO m VALUES (-1, -1001);
ROLLBACK TO s;
COMMIT;
SELECT count(*), min(k), max(k), count(DISTINCT k) FROM m;
BEGIN;
INSERT INTO m VALUES (-5, -5000);
ROLLBACK;
INSERT INTO m VALUES (-5, -5000);
TRUNCATE m;
INSERT INTO m VALUES (1, -5000);
INSERT INTO m VALUES (2, -5000);
-- Without a primary key; a primary key later.
CREATE TABLE v (a int UNIQUE, b int);
INSERT INTO v SELECT g, g FROM generate_series(1, 2500) AS g;
INSERT INTO v VALUES (7, 9999);
INSERT INTO v VALUES (7, 9999) ON CONFLICT (a) DO UPDATE SET b = 70 RETURNING *;
UPDATE v SET b = 7 WHERE a = 7;
ALTER TABLE v ADD PRIMARY KEY (b);
INSERT INTO v VALUES (7, 9999);
INSERT INTO v VALUES (9999, 7);
INSERT INTO v VALUES (7, 9999) ON CONFLICT (a) DO UPDATE SET b = 70000 RETURNING *;
DELETE FROM v WHERE a = 7;
INSERT INTO v VALUES (7, 7);
-- Added and dropped.
CREATE TABLE w (id int PRIMARY KEY, a int, b text);
INSERT INTO w VALUES (1, 1, 'one'), (2, 1, 'two'), (3, NULL, 'two'), (4, NULL, NULL);
ALTER TABLE w ADD UNIQUE (a);
ALTER TABLE w ADD CONSTRAINT w_ab UNIQUE (a, b);
ALTER TABLE w ADD CONSTRAINT w_ab UNIQUE (b);
INSERT INTO w VALUES (5, 1, 'two');
UPDATE w SET a = 2 WHERE id = 2;
CREATE UNIQUE INDEX w_a ON w (a);
INSERT INTO w VALUES (5, 1, 'three');
CREATE UNIQUE INDEX IF NOT EXISTS w_a ON w (a);
CREATE UNIQUE INDEX w_a ON w (b);
CREATE UNIQUE INDEX ON w (nosuch);
ALTER TABLE w DROP CONSTRAINT w_ab;
ALTER TABLE w DROP CONSTRAINT w_ab;
ALTER TABLE w DROP CONSTRAINT IF EXISTS w_ab;
ALTER TABLE w DROP COLUMN a;
INSERT INTO w VALUES (6, 'two');
ALTER TABLE w ADD UNIQUE (b);
DELETE FROM w WHERE b = 'two';
ALTER TABLE w ADD UNIQUE (b);
INSERT INTO w VALUES (8, 'one');
BEGIN;
ALTER TABLE w ADD UNIQUE (b, id);
INSERT INTO w VALUES (9, 'nine');
ROLLBACK;
INSERT INTO w VALUES (9, 'nine');
ALTER TABLE w ADD UNIQUE (id, id);
SELECT constraint_name, constraint_type FROM information_schema.table_constraints WHERE table_name = 'w' AND constraint_type <> 'CHECK' ORDER BY 1;
SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN ('u', 'w') ORDER BY 1;
SELECT conname, contype FROM pg_constraint WHERE conrelid = 'u'::regclass ORDER BY 1;
-- One key is enough.
CREATE TABLE twice (id int PRIMARY KEY UNIQUE, a int UNIQUE, b int, UNIQUE (a), UNIQUE (b, a));
SELECT indexname FROM pg_indexes WHERE tablename = 'twice' ORDER BY 1;
CREATE TABLE types (t text UNIQUE, n numeric UNIQUE, f float8 UNIQUE, d date UNIQUE, b bytea UNIQUE, o bool UNIQUE);
INSERT INTO types VALUES ('', 1.0, 0.0, '2024-02-29', '\x00', false);
INSERT INTO types (t) VALUES ('');
INSERT INTO types (n) VALUES (1.00);
INSERT INTO types (f) VALUES ('-0');
INSERT INTO types (d) VALUES ('2024-02-29');
INSERT INTO types (b) VALUES ('\x00');
INSERT INTO types (o) VALUES (false);
INSERT INTO types VALUES (' ', 1.01, 1e-300, '2024-03-01', '\x0000', true);
SELECT count(*) FROM types;
-- An index without a constraint.
CREATE TABLE x (id int PRIMARY KEY, a int UNIQUE, b int);
INSERT INTO x VALUES (1, 1, 1), (2, 2, 2);
CREATE UNIQUE INDEX x_by_b ON x (b);
CREATE UNIQUE INDEX x_by_b ON u (id);
INSERT INTO x VALUES (3, 3, 1);
ALTER TABLE x DROP CONSTRAINT x_by_b;
DROP INDEX x_a_key;
DROP INDEX IF EXISTS x_pkey;
DROP INDEX x;
DROP TABLE IF EXISTS x_by_b;
DROP VIEW IF EXISTS x;
INSERT INTO x VALUES (3, 3, 1) ON CONFLICT ON CONSTRAINT x_by_b DO NOTHING;
INSERT INTO x VALUES (3, 3, 1) ON CONFLICT (b) DO NOTHING;
SELECT conname FROM pg_constraint WHERE conrelid = 'x'::regclass ORDER BY 1;
SELECT constraint_name FROM information_schema.table_constraints WHERE table_name = 'x' AND constraint_type <> 'CHECK' ORDER BY 1;
CREATE TABLE y (b int REFERENCES x (b));
DROP INDEX x_by_b;
DROP INDEX x_by_b CASCADE;
INSERT INTO x VALUES (3, 3, 1);
INSERT INTO y VALUES (9);
DROP INDEX IF EXISTS x_by_b;
DROP INDEX x_by_b;
