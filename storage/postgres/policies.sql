-- name: use
-- The groups that a batch has used up.
INSERT INTO train_group (question, run_no, batch) SELECT q, $2, $3 FROM unnest($1::uuid[]) AS q ON CONFLICT DO NOTHING

-- name: use_all
-- Every group that a batch could have used, and nobody did; in live mode as many as make a batch.
INSERT INTO train_group (question, run_no, batch)
SELECT t.id, $1, $2 FROM trainable($1) AS t
WHERE t.batch IS NULL OR t.batch <= $2
ORDER BY t.pos LIMIT (SELECT CASE r.mode WHEN 'live' THEN r.batch_size END FROM run AS r WHERE r.run_no = $1)
ON CONFLICT DO NOTHING

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

-- name: named
-- What requests of unfinished runs may name, the base model too: what serves, what unfinished batches and questions are
-- pinned to, or the next ones may be; what a guard compares (a candidate, its parent, what serves where nothing was
-- made, the best so far, the base model); the best also to go back to it at once. In a run that does not train the base
-- model is named by open questions alone: it may be open for good, with none.
WITH alive AS (
    SELECT r.run_no, r.policy, r.trains, r.sealed_gen - r.lag AS oldest FROM run AS r
    WHERE r.state NOT IN ('ended', 'purged')
)
SELECT r.run_no, r.policy AS name FROM alive AS r WHERE r.trains OR r.policy <> 'base'
UNION
SELECT b.run_no, b.policy FROM batch AS b JOIN alive AS r ON r.run_no = b.run_no WHERE b.status <> 'ended'
UNION
SELECT g.run_no, g.policy FROM generation AS g JOIN alive AS r ON r.run_no = g.run_no
WHERE g.number >= r.oldest AND (r.trains OR g.policy <> 'base')
UNION
SELECT q.run_no, q.policy FROM active AS a JOIN alive AS r ON r.run_no = a.run_no
JOIN question AS q ON q.id = a.stream WHERE a.kind = 2
UNION
SELECT c.run_no, unnest(ARRAY[c.name, c.parent]) FROM policy AS c JOIN alive AS r ON r.run_no = c.run_no
WHERE c.state = 'candidate'
UNION
SELECT a.run_no, convert_from(e.body, 'UTF8')::jsonb ->> 'policy' FROM active AS a
JOIN alive AS r ON r.run_no = a.run_no
JOIN event AS e ON e.run_no = a.run_no AND e.id = a.pending AND e.type = 'learner.untrained' AND e.body IS NOT NULL
WHERE a.kind = 4 AND a.status = 'guarding'
UNION
SELECT a.run_no, 'base' FROM active AS a JOIN alive AS r ON r.run_no = a.run_no
WHERE a.kind = 4 AND a.status = 'guarding'
UNION
SELECT a.run_no, s.best FROM active AS a JOIN alive AS r ON r.run_no = a.run_no
CROSS JOIN LATERAL (
    SELECT convert_from(e.body, 'UTF8')::jsonb ->> 'best' AS best FROM event AS e
    WHERE e.run_no = a.run_no AND e.stream = a.stream AND e.type = 'learner.sealed' AND e.body IS NOT NULL
      AND convert_from(e.body, 'UTF8')::jsonb ? 'best'
    ORDER BY e.seq DESC LIMIT 1
) AS s
WHERE a.kind = 4

-- name: of_names
-- Versions by run and name; a name without one is passed over.
SELECT p.* FROM policy AS p JOIN unnest($1::int[], $2::text[]) AS n (run_no, name)
    ON (p.run_no, p.name) = (n.run_no, n.name)
ORDER BY p.run_no, p.number

-- name: begin_levelling
-- Whether nobody else is bringing servers level; until `end_levelling`, or the connection's end, nobody may.
SELECT pg_try_advisory_lock($1)

-- name: end_levelling
-- Let others; nothing happens where they are let already.
SELECT pg_advisory_unlock_all()
