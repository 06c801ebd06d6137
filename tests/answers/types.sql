-- Values of each type, in and out.
CREATE TABLE kinds (
    id int PRIMARY KEY, b bigint, t text, v varchar(5), c char(4), f boolean, d double precision, n numeric, np numeric(8,3),
    ts timestamp, tz timestamptz, dt date, u uuid, y bytea
);
INSERT INTO kinds VALUES (1, 9223372036854775807, 'text ''quoted''', 'abcde', 'ab', true, 1.5, 123456789012345678901234567890.123, 12345.6789,
    '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789+02', '2024-02-29', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\xdeadbeef');
INSERT INTO kinds VALUES (2, -9223372036854775808, '', '', '', false, 'NaN', 'NaN', -0.0005, '-infinity', 'infinity', 'epoch', '00000000-0000-0000-0000-000000000000', '');
INSERT INTO kinds (id) VALUES (3);
INSERT INTO kinds VALUES (4, 0, 'ünï¢ødé ✓', 'äöüß', 'x   ', 't', '1e300', 0.10, 1, '0044-03-15 BC', '2000-01-01 00:00:00 America/New_York', '9999-12-31', 'A0EEBC999C0B4EF8BB6D6BB9BD380A11', 'abc\\\000');
INSERT INTO kinds VALUES (5, 1, 'x', 'y', 'z', 'no', '-0', 1e-10, 99999.9994, '1999-01-08 04:05:06', '1999-01-08 04:05:06 -8:00', 'January 8, 1999', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', 'x');
SELECT * FROM kinds ORDER BY id;
SELECT id, length(t), length(v), length(c), octet_length(y) FROM kinds ORDER BY id;
SELECT id FROM kinds WHERE c = 'ab' OR c = 'x' ORDER BY id;
SELECT c || '|', v || '|' FROM kinds ORDER BY id;
INSERT INTO kinds (id, v) VALUES (6, 'abcdef');
INSERT INTO kinds (id, v) VALUES (6, 'abcde   ');
INSERT INTO kinds (id, np) VALUES (7, 100000);
INSERT INTO kinds (id, b) VALUES (7, 9223372036854775808);
INSERT INTO kinds (id) VALUES ('seven');
INSERT INTO kinds (id, dt) VALUES (7, '2023-02-30');
INSERT INTO kinds (id, u) VALUES (7, 'not-a-uuid');
INSERT INTO kinds (id, f) VALUES (7, 'maybe');
INSERT INTO kinds (id, ts) VALUES (7, 'yesterday-ish');
SELECT 'abcdef'::varchar(3), 'abcdef'::char(3), 12.345::numeric(4,1), 2.5::int, 3.5::int, -2.5::int, 2.5::float8::int, 3.5::float8::int;
SELECT 1.0, 1.00, 1.50 + 1.5, 1.10 * 1.10, 10 / 4, 10 / 4.0, 10.0 / 3, 1 / 3.0, 2 ^ 10, 7 % 3, -7 % 3, -7 / 2;
SELECT 0.1::float8 + 0.2::float8, 1e15::float8, 1e16::float8, 123456789.123::float8, 1.0::float8, 1e-5::float8, 0.0001::float8, 1::real / 3;
SELECT 2147483647 + 1;
SELECT 2147483647::bigint + 1;
SELECT 32767::smallint + 1::smallint;
SELECT (-2147483648)::int / -1;
SELECT 1.0 / 0;
SELECT 1e308::float8 * 10;
SELECT true AND NULL, false AND NULL, true OR NULL, NOT NULL::boolean, NULL = NULL, NULL IS NULL, NULL IS DISTINCT FROM 1;
SELECT date '2024-03-31' - date '2024-02-28', date '2024-01-31' + interval '1 month', timestamp '2024-01-01' - timestamp '2023-12-25 12:00';
SELECT date '2024-02-29' + 1, date '2024-02-29' - 60, timestamp '2024-02-29 23:59:59.999999' + interval '1 microsecond';
SELECT extract(year FROM date '2024-02-29'), extract(dow FROM date '2024-02-29'), extract(epoch FROM timestamp '2000-01-01'), date_trunc('month', timestamp '2024-02-29 12:34:56');
SELECT interval '1 year 2 months 3 days 04:05:06.7', interval '-1 day', interval '90 minutes' * 2, interval '1 day' / 3;
SELECT '2024-01-01 00:00:00+00'::timestamptz AT TIME ZONE 'Europe/Berlin', timestamp '2024-07-01 12:00' AT TIME ZONE 'UTC';
SET TIME ZONE 'Europe/Berlin';
SELECT tz FROM kinds ORDER BY id;
SELECT '2024-03-31 01:30:00'::timestamptz + interval '1 hour';
RESET TIME ZONE;
SELECT '\x00ff'::bytea, 'ab'::bytea || '\x63'::bytea, encode('\x616263', 'hex'), encode('abc', 'base64'), md5('abc');
SELECT max(n), min(n), max(d), min(d), max(t), min(ts), max(dt) FROM kinds;

-- char(n): its blanks are seen by patterns and lengths, and by nothing else
CREATE TABLE blanks (id int PRIMARY KEY, c char(4), d char(6));
INSERT INTO blanks VALUES (1, 'a', 'a'), (2, 'abcd', 'abcd'), (3, NULL, '');
SELECT id, c LIKE 'a', c LIKE 'a   ', c LIKE '%  ', c ~ '^a$', c !~ ' ', octet_length(c), length(c) FROM blanks ORDER BY id;
SELECT id, concat(c, '|'), format('%s|', c), concat_ws('-', c, d, 'x'), octet_length(c::text) FROM blanks ORDER BY id;
SELECT id FROM blanks WHERE c = d ORDER BY id;
SELECT c LIKE c FROM blanks ORDER BY id;

-- zones by number are east of UTC
SET timezone = -3;
SELECT '2020-07-01 12:00+00'::timestamptz;
SET timezone = '5.5';
SELECT '2020-07-01 12:00+00'::timestamptz;
RESET timezone;
