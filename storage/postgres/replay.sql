-- name: run
-- A run with its manifest.
SELECT run_no, id, name, scope, manifest FROM run WHERE name = $1

-- name: events
-- All events of a run, stream by stream, in order.
SELECT stream, seq, id, kind, type, topic, at, correlation, claim, body FROM event WHERE run_no = $1 ORDER BY stream, seq

-- name: effects
-- Everything that was recorded for a run's events, what is sealed included.
SELECT event_id, ordinal, kind, request_sha, result, false AS sealed FROM effect WHERE run_no = $1
UNION ALL
SELECT event_id, ordinal, kind, request_sha, result, true FROM sealed.effect WHERE run_no = $1

-- name: questions
-- Where a run's questions come from and stand.
SELECT q.id, q.source, q.row, q.pass_no, q.pos, q.batch, e.body AS asked
FROM question AS q JOIN event AS e ON e.run_no = q.run_no AND e.stream = q.id AND e.seq = 1 WHERE q.run_no = $1

-- name: buried
-- The commands that were dead-lettered: no handler ended their streams.
SELECT event_id FROM dead_letter WHERE run_no = $1 AND event_id IS NOT NULL
