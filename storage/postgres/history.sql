-- name: question
-- A question by id, with its run and what became of it.
SELECT q.id, q.run_no, r.name AS run, r.state AS run_state, r.scope, q.pos, q.batch, q.source, q.row, q.pass_no,
       q.status, q.answer, q.reason, q.grade, q.official, q.g, q.closed, q.urgent, q.accepted_at, q.answered_at,
       q.ended_at,
       (SELECT convert_from(e.body, 'UTF8')::jsonb ->> 'text' FROM event AS e
        WHERE e.run_no = q.run_no AND e.stream = q.id AND e.seq = 1) AS text,
       (SELECT e.body FROM event AS e WHERE e.run_no = q.run_no AND e.stream = q.id AND e.type = 'question.answered'
        ORDER BY e.seq DESC LIMIT 1) AS answered
FROM question AS q JOIN run AS r ON r.run_no = q.run_no
WHERE q.id = $1

-- name: steps
-- The events of a question (slot 0) and of its rollouts (slot: number + 1) after the seq that $3 has for each slot.
SELECT s.slot, e.id, e.stream, e.seq, e.kind, e.type, e.topic, e.at, e.cause, e.correlation, e.claim, e.attempt, e.body
FROM (
    SELECT $2::uuid AS stream, 0 AS slot
    UNION ALL
    SELECT r.id, r.number + 1 FROM rollout AS r WHERE r.question = $2
) AS s
JOIN event AS e ON e.run_no = $1 AND e.stream = s.stream AND e.seq > coalesce(($3::int[])[s.slot + 1], 0)
ORDER BY s.slot, e.seq

-- name: event
-- An event by id. Partitions are asked one by one: a unique index is on (run, id).
SELECT e.run_no, r.name AS run, 0 AS slot, e.id, e.stream, e.seq, e.kind, e.type, e.topic, e.at, e.cause,
       e.correlation, e.claim, e.attempt, e.body
FROM run AS r JOIN event AS e ON e.run_no = r.run_no AND e.id = $1

-- name: labels
-- The facts that labels of a question were sealed, without their values.
SELECT -1 AS slot, e.id, e.stream, e.seq, e.kind, e.type, e.topic, e.at, e.cause, e.correlation, e.claim, e.attempt,
       e.body
FROM label AS l JOIN event AS e ON e.run_no = $1 AND e.stream = l.id
WHERE l.question = $2 ORDER BY e.at

-- name: effects
-- What some events asked for, and the replies.
SELECT f.event_id, f.ordinal, f.kind, f.policy, f.at, f.result, false AS sealed FROM effect AS f
WHERE f.run_no = $1 AND f.event_id = ANY ($2) ORDER BY f.event_id, f.ordinal

-- name: sealed_effects
-- What some events asked for that is sealed: that it was there, never what it said. For the auditor's role.
SELECT f.event_id, f.ordinal, f.kind, f.policy, f.at, NULL::bytea AS result, true AS sealed
FROM sealed.effect AS f
WHERE f.run_no = $1 AND f.event_id = ANY ($2) ORDER BY f.event_id, f.ordinal

-- name: memories
-- Memories by id, the newest version of each.
SELECT DISTINCT ON (m.id) m.id, m.version, m.outcome, m.question, m.text, m.from_gen, m.at
FROM memory AS m WHERE m.id = ANY ($1) ORDER BY m.id, m.version DESC
