-- name: use
-- The groups that a batch has used up.
INSERT INTO train_group (question, run_no, batch) SELECT q, $2, $3 FROM unnest($1::uuid[]) AS q

-- name: register
-- A new planner version.
INSERT INTO policy (run_no, number, name, parent, batch, adapter_sha, optimizer_sha, data_sha, record, event_id, at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)

-- name: list
-- A run's versions, oldest first.
SELECT p.* FROM policy AS p WHERE p.run_no = $1 ORDER BY p.number

-- name: get
-- A version by its name.
SELECT p.* FROM policy AS p WHERE p.run_no = $1 AND p.name = $2

-- name: wanted
-- Versions of unfinished runs that requests may name.
SELECT p.* FROM policy AS p JOIN run AS r ON r.run_no = p.run_no AND r.state NOT IN ('ended', 'purged')
WHERE p.name = r.policy OR p.state = 'candidate'
   OR EXISTS (SELECT FROM batch AS b WHERE b.run_no = p.run_no AND b.policy = p.name AND b.status <> 'ended')
   OR EXISTS (SELECT FROM question AS q WHERE q.run_no = p.run_no AND q.policy = p.name AND NOT q.closed)
ORDER BY p.run_no, p.number
