-- A small sample database: ships, ports and voyages.
DROP TABLE IF EXISTS voyages;
DROP TABLE IF EXISTS ships;
DROP TABLE IF EXISTS ports;

CREATE TABLE ports (
    code    char(5) PRIMARY KEY,
    name    text NOT NULL,
    country text NOT NULL,
    lat     double precision NOT NULL,
    lon     double precision NOT NULL
);

CREATE TABLE ships (
    id       int PRIMARY KEY,
    name     varchar(40) NOT NULL,
    flag     text NOT NULL,
    built    date NOT NULL,
    capacity int NOT NULL,
    day_rate numeric(10, 2) NOT NULL
);

-- Spread over eight shards from the start, by a hash of the key.
CREATE TABLE voyages (
    id       bigint PRIMARY KEY,
    ship_id  int NOT NULL,
    origin   char(5) NOT NULL,
    target   char(5) NOT NULL,
    departed timestamptz NOT NULL,
    hours    int NOT NULL,
    teu      int NOT NULL,
    delayed  boolean NOT NULL DEFAULT false
) WITH (sharding = 'hash', shards = 8);

INSERT INTO ports VALUES
    ('NLRTM', 'Rotterdam', 'Netherlands', 51.949, 4.145),
    ('DEHAM', 'Hamburg', 'Germany', 53.541, 9.984),
    ('BEANR', 'Antwerp', 'Belgium', 51.263, 4.403),
    ('SGSIN', 'Singapore', 'Singapore', 1.264, 103.840),
    ('CNSHA', 'Shanghai', 'China', 31.366, 121.615),
    ('KRPUS', 'Busan', 'South Korea', 35.104, 129.042),
    ('USLAX', 'Los Angeles', 'United States', 33.740, -118.272),
    ('AEJEA', 'Jebel Ali', 'United Arab Emirates', 25.011, 55.061),
    ('MATNG', 'Tanger Med', 'Morocco', 35.889, -5.503),
    ('BRSSZ', 'Santos', 'Brazil', -23.961, -46.302);

INSERT INTO ships VALUES
    (1, 'Aurora Borealis', 'Norway', '2012-05-14', 8400, 31500.00),
    (2, 'Baltic Courage', 'Denmark', '2016-09-02', 14200, 48250.50),
    (3, 'Cape Perpetua', 'Portugal', '2008-01-21', 5100, 19800.00),
    (4, 'Dawn Treader', 'United Kingdom', '2019-11-30', 20100, 67900.75),
    (5, 'Ems Express', 'Germany', '2005-07-08', 2800, 11250.00),
    (6, 'Fair Isle', 'Panama', '2014-03-17', 9600, 35400.00),
    (7, 'Golden Gate Star', 'Liberia', '2021-06-05', 23600, 82000.00),
    (8, 'Hanseatic Spirit', 'Germany', '2010-12-12', 6900, 26100.25);

INSERT INTO voyages
SELECT n,
       1 + n % 8,
       (SELECT p.code FROM ports p ORDER BY p.code LIMIT 1 OFFSET 0),
       (SELECT p.code FROM ports p ORDER BY p.code LIMIT 1 OFFSET 5),
       timestamptz '2026-01-01 06:00:00+00' + n * interval '5 hours',
       120 + (n * 37) % 600,
       500 + (n * 7919) % 4500,
       n % 11 = 0
FROM generate_series(1, 1000) AS g(n);

UPDATE voyages SET origin = 'NLRTM', target = 'SGSIN' WHERE id % 3 = 0;
UPDATE voyages SET origin = 'CNSHA', target = 'USLAX' WHERE id % 3 = 1;
