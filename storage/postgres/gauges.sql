-- name: questions
-- Questions by run and status.
SELECT r.name AS run, CASE WHEN q.closed THEN q.status ELSE CASE q.status WHEN 'waiting' THEN 'waiting' ELSE 'open' END END AS status,
       count(*) AS count
FROM question AS q JOIN run AS r ON r.run_no = q.run_no GROUP BY 1, 2 ORDER BY 1, 2

-- name: in_flight
-- Questions opened and not ended, by run.
SELECT r.name, r.opened - r.ended AS n FROM run AS r WHERE r.run_no > 0 AND r.state <> 'ended' ORDER BY r.name

-- name: commands
-- Commands by topic: how many nobody holds, how many are being handled, how old the oldest of the former is.
SELECT a.topic, count(*) FILTER (WHERE a.claim IS NULL) AS pending, count(a.claim) AS claimed,
       coalesce(extract(epoch FROM clock_timestamp() - min(a.updated_at) FILTER (WHERE a.claim IS NULL)), 0)::float8
           AS oldest
FROM active AS a WHERE a.topic IS NOT NULL GROUP BY a.topic ORDER BY a.topic

-- name: events
-- Rows added to each run's partition since the statistics were reset (by a crash, or on purpose).
SELECT r.name, coalesce(s.n_tup_ins, 0) AS n FROM run AS r
JOIN pg_stat_user_tables AS s ON s.schemaname = 'public' AND s.relname = 'event_' || r.run_no
WHERE r.run_no > 0 ORDER BY r.name

-- name: unacknowledged
-- Outbound facts that the broker has not acknowledged.
SELECT count(*) FROM outbox

-- name: dead_letters
-- Dead letters by class of error.
SELECT d.error_class, count(*) AS n FROM dead_letter AS d GROUP BY d.error_class ORDER BY d.error_class

-- name: alive
-- Whether the database answers.
SELECT 1
