-- name: lock_run
-- A run, locked, and whether it has this stream.
SELECT r.state, r.accepted,
       EXISTS (SELECT FROM event AS e WHERE e.run_no = r.run_no AND e.stream = $2) AS there
FROM run AS r WHERE r.run_no = $1 FOR UPDATE OF r

-- name: append
-- The event of an import, the only one of its stream.
SELECT append_event($1, $2, $3::smallint, 1, $4, $5, $6, NULL, $7, $8, NULL, NULL)
