-- Reports over the Chinook database, each under its name and ordered in full.

-- name: tracks per genre, with their share of all
SELECT g.name, count(*) AS tracks, round(100.0 * count(*) / sum(count(*)) OVER (), 2) AS percent
FROM track t JOIN genre g USING (genre_id)
GROUP BY g.name ORDER BY tracks DESC, g.name;

-- name: revenue per country and its rank
SELECT billing_country, sum(total) AS revenue, count(DISTINCT customer_id) AS customers,
       rank() OVER (ORDER BY sum(total) DESC) AS place
FROM invoice GROUP BY billing_country ORDER BY place, billing_country;

-- name: revenue per month with a running total
SELECT date_trunc('month', invoice_date) AS month, sum(total) AS revenue,
       sum(sum(total)) OVER (ORDER BY date_trunc('month', invoice_date)) AS so_far
FROM invoice GROUP BY 1 ORDER BY 1;

-- name: each year against the one before
WITH yearly AS (
  SELECT extract(year FROM invoice_date)::int AS year, sum(total) AS revenue FROM invoice GROUP BY 1)
SELECT year, revenue, lag(revenue) OVER w AS before,
       round((revenue - lag(revenue) OVER w) / lag(revenue) OVER w * 100, 1) AS growth
FROM yearly WINDOW w AS (ORDER BY year) ORDER BY year;

-- name: the three best customers of each country
SELECT country, full_name, spent FROM (
  SELECT c.country, c.first_name || ' ' || c.last_name AS full_name, sum(i.total) AS spent,
         row_number() OVER (PARTITION BY c.country ORDER BY sum(i.total) DESC, c.customer_id) AS n
  FROM customer c JOIN invoice i ON i.customer_id = c.customer_id
  GROUP BY c.country, c.customer_id) best
WHERE n <= 3 ORDER BY country, n;

-- name: the tree of employees with depth and path
WITH RECURSIVE chain AS (
  SELECT employee_id, first_name, last_name, reports_to, 0 AS depth, last_name::text AS path
  FROM employee WHERE reports_to IS NULL
  UNION ALL
  SELECT e.employee_id, e.first_name, e.last_name, e.reports_to, c.depth + 1, c.path || ' > ' || e.last_name
  FROM employee e JOIN chain c ON e.reports_to = c.employee_id)
SELECT depth, path, employee_id FROM chain ORDER BY path;

-- name: how many report to each, directly and not
WITH RECURSIVE under(boss, worker) AS (
  SELECT reports_to, employee_id FROM employee WHERE reports_to IS NOT NULL
  UNION
  SELECT u.boss, e.employee_id FROM under u JOIN employee e ON e.reports_to = u.worker)
SELECT e.last_name, count(u.worker) AS people
FROM employee e LEFT JOIN under u ON u.boss = e.employee_id
GROUP BY e.employee_id, e.last_name ORDER BY people DESC, e.last_name;

-- name: the first hundred Fibonacci sums of milliseconds, as numerics
WITH RECURSIVE fib(n, a, b) AS (
  SELECT 1, 0::numeric, 1::numeric UNION ALL SELECT n + 1, b, a + b FROM fib WHERE n < 100)
SELECT n, a, a % 1000 AS tail FROM fib WHERE n % 10 = 0 ORDER BY n;

-- name: artists without albums
SELECT a.artist_id, a.name FROM artist a
WHERE NOT EXISTS (SELECT 1 FROM album b WHERE b.artist_id = a.artist_id) ORDER BY a.artist_id LIMIT 30;

-- name: albums and their length in words
SELECT b.album_id, b.title, (sum(t.milliseconds) * interval '1 millisecond') AS length,
       to_char(sum(t.milliseconds) * interval '1 millisecond', 'HH24:MI:SS') AS text
FROM album b JOIN track t USING (album_id)
GROUP BY b.album_id ORDER BY length DESC, b.album_id LIMIT 25;

-- name: median, quartiles and mode of track lengths per media type
SELECT m.name, percentile_cont(0.5) WITHIN GROUP (ORDER BY t.milliseconds) AS median,
       percentile_disc(0.25) WITHIN GROUP (ORDER BY t.milliseconds) AS low,
       percentile_disc(0.75) WITHIN GROUP (ORDER BY t.milliseconds) AS high,
       mode() WITHIN GROUP (ORDER BY t.genre_id) AS common_genre
FROM track t JOIN media_type m USING (media_type_id) GROUP BY m.name ORDER BY m.name;

-- name: deviation and variance
SELECT genre_id, round(stddev(milliseconds), 3) AS sd, round(var_pop(milliseconds), 3) AS vp,
       round(avg(milliseconds), 4) AS mean
FROM track GROUP BY genre_id HAVING count(*) > 1 ORDER BY genre_id;

-- name: a pivot by FILTER
SELECT g.name, count(*) FILTER (WHERE m.name LIKE 'MPEG%') AS mpeg,
       count(*) FILTER (WHERE m.name LIKE '%AAC%') AS aac,
       sum(t.bytes) FILTER (WHERE t.milliseconds > 300000) AS long_bytes
FROM track t JOIN genre g USING (genre_id) JOIN media_type m USING (media_type_id)
GROUP BY g.name ORDER BY g.name;

-- name: totals by country and city, with subtotals
SELECT country, city, count(*) AS customers, grouping(country) AS gc, grouping(city) AS gt
FROM customer GROUP BY ROLLUP (country, city)
ORDER BY country NULLS LAST, city NULLS LAST, gc, gt;

-- name: every combination of media type and genre in sets
SELECT media_type_id, genre_id, sum(milliseconds) AS ms
FROM track WHERE genre_id < 5 GROUP BY GROUPING SETS ((media_type_id, genre_id), (media_type_id), ())
ORDER BY media_type_id NULLS LAST, genre_id NULLS LAST;

-- name: a cube
SELECT support_rep_id, country, count(*) FROM customer WHERE country IN ('USA', 'Canada', 'Brazil')
GROUP BY CUBE (support_rep_id, country) ORDER BY 1 NULLS FIRST, 2 NULLS FIRST;

-- name: the newest invoice of each customer, laterally
SELECT c.customer_id, c.last_name, i.invoice_id, i.total
FROM customer c CROSS JOIN LATERAL (
  SELECT invoice_id, total FROM invoice WHERE customer_id = c.customer_id
  ORDER BY invoice_date DESC, invoice_id DESC LIMIT 2) i
ORDER BY c.customer_id, i.invoice_id;

-- name: artists and their longest track, also without one
SELECT a.name, t.name AS longest, t.milliseconds
FROM artist a LEFT JOIN LATERAL (
  SELECT t.name, t.milliseconds FROM track t JOIN album b USING (album_id)
  WHERE b.artist_id = a.artist_id ORDER BY t.milliseconds DESC, t.track_id LIMIT 1) t ON true
WHERE a.artist_id BETWEEN 20 AND 60 ORDER BY a.artist_id;

-- name: DISTINCT ON the cheapest line of each invoice
SELECT DISTINCT ON (invoice_id) invoice_id, track_id, unit_price
FROM invoice_line WHERE invoice_id <= 60 ORDER BY invoice_id, unit_price DESC, track_id;

-- name: genres as arrays per playlist
SELECT p.name, array_agg(DISTINCT g.name ORDER BY g.name) AS genres, array_length(array_agg(DISTINCT g.genre_id), 1) AS n
FROM playlist p JOIN playlist_track pt USING (playlist_id) JOIN track t USING (track_id) JOIN genre g USING (genre_id)
GROUP BY p.playlist_id, p.name ORDER BY p.playlist_id;

-- name: composers split into single names
SELECT trim(who) AS composer, count(*) AS tracks
FROM track, unnest(string_to_array(composer, ',')) AS who
WHERE composer IS NOT NULL GROUP BY 1 HAVING count(*) > 15 ORDER BY tracks DESC, composer;

-- name: array operators
SELECT customer_id, ids[1] AS first_id, ids[2:3] AS some, ids @> ARRAY[98] AS has, ids && ARRAY[1, 2, 3, 143] AS any_of,
       cardinality(ids) AS n, ids || 0 AS more
FROM (SELECT customer_id, array_agg(invoice_id ORDER BY invoice_id) AS ids FROM invoice GROUP BY customer_id) x
WHERE customer_id <= 12 ORDER BY customer_id;

-- name: = ANY and <> ALL
SELECT name FROM genre WHERE genre_id = ANY (ARRAY[1, 3, 5]) OR name <> ALL ('{Rock,Jazz,Metal,Pop,Blues}'::text[]) AND genre_id > 20
ORDER BY name;

-- name: an artist's discography as JSON
SELECT a.name, jsonb_agg(jsonb_build_object('title', b.title, 'id', b.album_id) ORDER BY b.album_id) AS albums
FROM artist a JOIN album b USING (artist_id) WHERE a.artist_id < 25 GROUP BY a.artist_id, a.name ORDER BY a.artist_id;

-- name: JSON there and back
WITH docs AS (
  SELECT customer_id, jsonb_build_object('name', last_name, 'place', jsonb_build_object('city', city, 'zip', postal_code), 'rep', support_rep_id) AS doc
  FROM customer)
SELECT customer_id, doc->>'name' AS name, doc#>>'{place,city}' AS city, (doc->'rep')::int AS rep, doc ? 'rep' AS has_rep,
       doc @> '{"place": {"city": "Prague"}}' AS prague, jsonb_typeof(doc->'place') AS kind
FROM docs WHERE customer_id < 15 ORDER BY customer_id;

-- name: JSON changed in place
SELECT customer_id,
       jsonb_set(jsonb_build_object('a', jsonb_build_object('b', customer_id)), '{a,b}', to_jsonb(last_name)) AS changed,
       jsonb_build_object('x', 1, 'y', 2) - 'x' AS less,
       jsonb_build_object('x', 1) || jsonb_build_object('z', ARRAY[customer_id, 2]) AS more,
       jsonb_strip_nulls(jsonb_build_object('company', company, 'id', customer_id)) AS lean
FROM customer WHERE customer_id <= 8 ORDER BY customer_id;

-- name: keys and values of rows
SELECT e.key, count(*) AS rows, min(e.value) AS least
FROM customer c, jsonb_each_text(jsonb_build_object('country', c.country, 'state', c.state, 'rep', c.support_rep_id)) AS e
GROUP BY e.key ORDER BY e.key;

-- name: whole rows as JSON
SELECT row_to_json(g) AS row, to_jsonb(g) ->> 'name' AS name FROM (SELECT genre_id, name FROM genre) g WHERE genre_id < 6 ORDER BY g.genre_id;

-- name: days between invoices
SELECT customer_id, invoice_date::date AS day,
       invoice_date::date - lag(invoice_date::date) OVER (PARTITION BY customer_id ORDER BY invoice_date) AS days,
       age(invoice_date, lag(invoice_date) OVER (PARTITION BY customer_id ORDER BY invoice_date)) AS since
FROM invoice WHERE customer_id IN (1, 2, 3) ORDER BY customer_id, invoice_date;

-- name: ages of employees on a day
SELECT last_name, age(timestamp '2020-03-01', birth_date) AS age, extract(year FROM age(timestamp '2020-03-01', hire_date)) AS years,
       to_char(hire_date, 'Day DD Mon YYYY') AS hired, extract(dow FROM hire_date) AS dow, extract(isodow FROM birth_date)::int AS isodow
FROM employee ORDER BY employee_id;

-- name: a calendar with gaps filled
SELECT d::date AS month, coalesce(sum(i.total), 0) AS revenue, count(i.invoice_id) AS invoices
FROM generate_series(timestamp '2021-01-01', timestamp '2021-12-01', interval '1 month') AS d
LEFT JOIN invoice i ON date_trunc('month', i.invoice_date) = d
GROUP BY d ORDER BY d;

-- name: quarters and weekdays
SELECT extract(quarter FROM invoice_date) AS quarter, to_char(invoice_date, 'FMDay') AS weekday, count(*) AS n
FROM invoice GROUP BY 1, 2 ORDER BY 1, 2;

-- name: invoices at local time
SELECT invoice_id, invoice_date AT TIME ZONE 'UTC' AT TIME ZONE 'Europe/Prague' AS local,
       (invoice_date AT TIME ZONE 'America/New_York') AT TIME ZONE 'UTC' AS back
FROM invoice WHERE invoice_id % 41 = 0 ORDER BY invoice_id;

-- name: quartiles by ntile and neighbours
SELECT invoice_id, total, ntile(4) OVER (ORDER BY total, invoice_id) AS quarter,
       first_value(total) OVER w AS first, last_value(total) OVER w AS last, nth_value(invoice_id, 2) OVER w AS second,
       round(percent_rank() OVER (ORDER BY total)::numeric, 6) AS pr, cume_dist() OVER (ORDER BY total) AS cd
FROM invoice WHERE invoice_id <= 40
WINDOW w AS (PARTITION BY billing_country ORDER BY invoice_id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
ORDER BY invoice_id;

-- name: moving average over three invoices
SELECT invoice_id, total, round(avg(total) OVER (ORDER BY invoice_id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING), 4) AS smooth
FROM invoice WHERE invoice_id BETWEEN 100 AND 140 ORDER BY invoice_id;

-- name: customers who bought in every year
SELECT c.customer_id, c.email FROM customer c
WHERE (SELECT count(DISTINCT extract(year FROM i.invoice_date)) FROM invoice i WHERE i.customer_id = c.customer_id)
    = (SELECT count(DISTINCT extract(year FROM invoice_date)) FROM invoice)
ORDER BY c.customer_id;

-- name: tracks longer than their genre's mean, with correlated subquery
SELECT t.track_id, t.name FROM track t
WHERE t.milliseconds > 2.5 * (SELECT avg(u.milliseconds) FROM track u WHERE u.genre_id = t.genre_id)
ORDER BY t.track_id LIMIT 60;

-- name: sets of tracks
(SELECT track_id FROM playlist_track WHERE playlist_id = 1 INTERSECT SELECT track_id FROM invoice_line)
EXCEPT (SELECT track_id FROM track WHERE genre_id = 1) ORDER BY track_id LIMIT 50;

-- name: words of titles
SELECT lower(word) AS word, count(*) AS n
FROM album, regexp_split_to_table(title, '[^A-Za-z]+') AS word
WHERE length(word) > 3 GROUP BY 1 HAVING count(*) >= 5 ORDER BY n DESC, word;

-- name: patterns
SELECT track_id, name, substring(name from '\((.*)\)') AS inside, regexp_replace(name, '\s+', ' ', 'g') AS clean,
       name SIMILAR TO '%(Live|Acoustic)%' AS special, name ~* 'love' AS love, position('a' in name) AS a
FROM track WHERE name ~ '\(.*\)' AND track_id < 600 ORDER BY track_id;

-- name: text functions
SELECT customer_id, initcap(lower(country)) AS a, left(email, strpos(email, '@') - 1) AS mailbox, split_part(email, '@', 2) AS host,
       lpad(customer_id::text, 4, '0') AS padded, reverse(city) AS backwards, md5(email) AS digest, translate(phone, '+() -', '') AS digits,
       format('%s <%s>', first_name, email) AS label, concat_ws(', ', city, state, country) AS place, repeat('*', customer_id % 5) AS stars
FROM customer ORDER BY customer_id;

-- name: numbers
SELECT invoice_id, total * 1.21 AS gross, round(total * 1.21, 2) AS rounded, trunc(total), ceil(total) AS up, floor(total) AS down,
       total::float8 / 3 AS third, mod(invoice_id, 7) AS m, power(total, 2) AS squared, sqrt(total) AS root, sign(total - 5) AS s,
       to_char(total, 'FM999,990.00') AS shown, width_bucket(total, 0, 20, 4) AS bucket, total / 7 AS seventh
FROM invoice WHERE invoice_id <= 45 ORDER BY invoice_id;

-- name: CASE, COALESCE, NULLIF, GREATEST
SELECT customer_id, coalesce(company, 'private') AS company, nullif(country::text, 'USA') AS abroad,
       CASE WHEN state IS NULL THEN 'none' WHEN state IN ('CA', 'WA') THEN 'west' ELSE 'other' END AS region,
       greatest(length(city), length(country)) AS longest, country IS DISTINCT FROM 'Brazil' AS not_brazil
FROM customer ORDER BY customer_id;

-- name: full join of genres bought and sold
WITH bought AS (SELECT t.genre_id, count(*) AS n FROM invoice_line l JOIN track t USING (track_id) GROUP BY 1),
     offered AS (SELECT genre_id, count(*) AS n FROM track WHERE genre_id <> 2 GROUP BY 1)
SELECT coalesce(b.genre_id, o.genre_id) AS genre_id, b.n AS bought, o.n AS offered
FROM bought b FULL JOIN offered o ON o.genre_id = b.genre_id ORDER BY 1;

-- name: pairs of genres bought together
SELECT a.genre_id AS one, b.genre_id AS other, count(*) AS n
FROM (SELECT DISTINCT l.invoice_id, t.genre_id FROM invoice_line l JOIN track t USING (track_id)) a
JOIN (SELECT DISTINCT l.invoice_id, t.genre_id FROM invoice_line l JOIN track t USING (track_id)) b
  ON a.invoice_id = b.invoice_id AND a.genre_id < b.genre_id
GROUP BY 1, 2 HAVING count(*) > 10 ORDER BY n DESC, one, other;

-- name: string_agg and bool_and
SELECT i.billing_country, string_agg(DISTINCT c.last_name, ', ' ORDER BY c.last_name) AS names,
       bool_and(i.total > 1) AS all_over_one, bool_or(i.total > 20) AS any_over_twenty, min(i.invoice_date) AS first, max(i.total) AS most
FROM invoice i JOIN customer c USING (customer_id) GROUP BY i.billing_country ORDER BY i.billing_country;

-- name: VALUES joined
SELECT v.label, count(t.track_id) AS tracks, min(t.milliseconds) AS least
FROM (VALUES ('short', 0, 180000), ('middle', 180000, 300000), ('long', 300000, 100000000)) AS v(label, low, high)
LEFT JOIN track t ON t.milliseconds >= v.low AND t.milliseconds < v.high
GROUP BY v.label, v.low ORDER BY v.low;

-- name: two levels of aggregates
SELECT decade, count(*) AS invoices, round(avg(lines), 3) AS lines, max(lines) AS most
FROM (SELECT i.invoice_id, (extract(year FROM i.invoice_date) - 2000)::int / 2 AS decade, count(*) AS lines
      FROM invoice i JOIN invoice_line l USING (invoice_id) GROUP BY i.invoice_id) x
GROUP BY decade ORDER BY decade;

-- name: rows compared
SELECT invoice_id, customer_id FROM invoice
WHERE (customer_id, invoice_id) > (55, 100) AND (billing_country, total) IN (SELECT billing_country, max(total) FROM invoice GROUP BY 1)
ORDER BY customer_id, invoice_id;

-- name: values over ranges of days
SELECT invoice_id, invoice_date, total,
       sum(total) OVER (ORDER BY invoice_date RANGE BETWEEN interval '7 days' PRECEDING AND CURRENT ROW) AS week
FROM invoice WHERE invoice_id < 60 ORDER BY invoice_id;

-- name: written and read in one statement
WITH gone AS (DELETE FROM playlist_track WHERE playlist_id = 18 RETURNING track_id)
SELECT count(*) AS n, min(track_id) AS least FROM gone;
