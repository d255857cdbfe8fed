-- name: runs
-- Every run, with the counters that an audit compares.
SELECT run_no, id, name, scope, mode, state, rollouts, batch_size, lag, version, head, sealed_gen, accepted, opened,
       ended, policy, trains
FROM run ORDER BY run_no

-- name: events
-- All events of a run, stream by stream, in order.
SELECT run_no, stream, seq, id, kind, type, topic, at, cause, correlation, claim, attempt, body_sha, hash, body
FROM event WHERE run_no = $1 ORDER BY stream, seq

-- name: events_named
-- The events with these ids in some runs: what was committed after the first look.
SELECT run_no, stream, seq, id, kind, type, topic, at, cause, correlation, claim, attempt, body_sha, hash, NULL::bytea AS body
FROM event WHERE run_no = ANY ($1) AND id = ANY ($2)

-- name: questions
-- All questions of a run by position.
SELECT id, pos, batch, source, row, pass_no, status, g, planned, ended, candidate, official, answer, reason, grade,
       closed, head
FROM question WHERE run_no = $1 ORDER BY pos

-- name: rollouts
-- All rollouts of a run.
SELECT id, question, number, phase, outcome FROM rollout WHERE run_no = $1 ORDER BY question, number

-- name: batches
-- All batches of a run.
SELECT id, number, status, size, ended, generation, policy, version, head FROM batch WHERE run_no = $1 ORDER BY number

-- name: active
-- The unfinished streams of a run.
SELECT stream, kind, status, version, head, pending, topic, parent, claim FROM active WHERE run_no = $1

-- name: effects
-- What was recorded for each event; the reply only of retrievals, or ($2) of all that are not sealed.
SELECT event_id, ordinal, kind, false AS sealed, CASE WHEN kind = 'recall' OR $2 THEN result END AS result
FROM effect WHERE run_no = $1
UNION ALL
SELECT event_id, ordinal, kind, true, NULL FROM sealed.effect WHERE run_no = $1
ORDER BY event_id, ordinal

-- name: outbox
-- Outbound facts that the broker has not acknowledged.
SELECT event_id FROM outbox WHERE run_no = $1

-- name: letters
-- Dead letters of a run.
SELECT id, message, sha256 FROM dead_letter WHERE run_no = $1

-- name: letters_of
-- Which of these digests are those of dead letters, of whatever run.
SELECT DISTINCT sha256 FROM dead_letter WHERE sha256 = ANY ($1)

-- name: labels
-- Labels of a run, as far as the ledger knows them.
SELECT id, question, commitment FROM label WHERE run_no = $1

-- name: gold
-- The sealed values of a run's labels.
SELECT DISTINCT l.question, l.value FROM sealed.label AS l
JOIN label AS f ON f.id = l.id WHERE f.run_no = $1

-- name: memories
-- All memory versions of a scope.
SELECT id, version, dedupe_key, outcome, text, question, causes, from_gen, until_gen, trust, brought_uses, brought_wins
FROM memory WHERE scope = $1 ORDER BY dedupe_key, version

-- name: credits
-- The credits of a scope's memories.
SELECT memory, question, gen, won FROM memory_credit WHERE memory IN (SELECT m.id FROM memory AS m WHERE m.scope = $1)

-- name: versions
-- A run's planner versions, oldest first.
SELECT number, name, parent, batch, state, adapter_sha, optimizer_sha, data_sha, event_id FROM policy
WHERE run_no = $1 ORDER BY number

-- name: groups
-- The groups that a run's batches used up.
SELECT question, batch FROM train_group WHERE run_no = $1

-- name: topics
-- When each topic was last made.
SELECT name, created_at FROM topic

-- name: writes
-- The writes of a scope in order, each with its event; the payload only of other runs' events.
SELECT w.number, w.generation, w.run_no, w.event_id, w.cap, e.stream,
       CASE WHEN w.run_no <> $2 THEN e.body END AS body
FROM memory_write AS w LEFT JOIN event AS e ON e.run_no = w.run_no AND e.id = w.event_id
WHERE w.scope = $1 ORDER BY w.number
