-- name: claim
-- Grant claims on what is due and unclaimed (one statement for all free slots).
SELECT * FROM claim_commands($1, $2, $3, $4, $5, $6)

-- name: commit
-- Apply a group of units (see the function).
SELECT * FROM commit_steps($1, $2, $3, $4, $5, $6, $7, $8)

-- name: renew
-- Extend the leases that are still held.
WITH held AS (
    SELECT a.stream FROM active AS a
    JOIN unnest($1::uuid[], $2::bigint[]) AS c (stream, claim) ON a.stream = c.stream AND a.claim = c.claim
    ORDER BY a.kind, a.stream FOR UPDATE OF a
)
UPDATE active AS a SET lease_until = clock_timestamp() + $3 FROM held WHERE a.stream = held.stream
RETURNING a.claim

-- name: release
-- Give a claim back; $4 seconds later the command is due again and the sweeper sends it.
UPDATE active
SET claim = NULL, lease_until = NULL, due_at = clock_timestamp() + $3, sent_offset = NULL, sent_partition = NULL,
    failures = failures + CASE WHEN $4 THEN 1 ELSE 0 END,
    isolated_deaths = isolated_deaths + CASE WHEN $5 THEN 1 ELSE 0 END,
    attempt = attempt - CASE WHEN $4 OR $5 THEN 0 ELSE 1 END, updated_at = clock_timestamp()
WHERE stream = $1 AND claim = $2
RETURNING true

-- name: accept
-- Record questions of a run and open what may start.
SELECT * FROM accept_questions($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)

-- name: advance
-- Close, open, end and release what is due in a run.
SELECT * FROM advance_run($1, $2)

-- name: effects
-- What was recorded for an event.
SELECT ordinal, kind, policy, request_sha, result FROM effect WHERE run_no = $1 AND event_id = $2 ORDER BY ordinal

-- name: sealed_effects
-- What was recorded for an event in the sealed schema.
SELECT ordinal, kind, policy, request_sha, result FROM sealed.effect
WHERE run_no = $1 AND event_id = $2 ORDER BY ordinal

-- name: mark_sent
-- Remember where commands lie in the broker.
WITH marked AS (
    SELECT a.stream, s.partition, s.place FROM active AS a
    JOIN unnest($1::uuid[], $2::int[], $3::int[], $4::bigint[]) AS s (stream, version, partition, place)
        ON a.stream = s.stream AND a.version = s.version
    ORDER BY a.kind, a.stream FOR UPDATE OF a
)
UPDATE active AS a SET sent_partition = m.partition, sent_offset = m.place, updated_at = clock_timestamp()
FROM marked AS m
WHERE a.stream = m.stream

-- name: acknowledge
-- Outbound facts that the broker has.
DELETE FROM outbox WHERE event_id = ANY ($1)

-- name: unsent_commands
-- Take over commands that the broker has not (never sent, older than $5), or no longer (see the port).
WITH place AS (
    SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[]) AS p (topic, partition, committed, ending)
), picked AS (
    SELECT a.stream FROM active AS a
    JOIN run AS r ON r.run_no = a.run_no AND r.state IN ('running', 'closing')
    LEFT JOIN place AS p ON p.topic = a.topic AND p.partition = a.sent_partition
    WHERE a.topic IS NOT NULL
      AND a.topic = ANY ($1)
      AND (a.claim IS NULL OR a.lease_until < clock_timestamp())
      AND (a.due_at IS NULL OR a.due_at <= clock_timestamp())
      AND CASE WHEN a.claim IS NOT NULL THEN true  -- its worker died after taking it from the topic
          WHEN a.sent_offset IS NULL
          THEN greatest(a.updated_at, a.due_at) < clock_timestamp() - $5::interval
          -- Its record is gone only if the end was read after it was written: not if it is newer than $5.
          ELSE p.committed > a.sent_offset
              OR p.ending <= a.sent_offset AND a.updated_at < clock_timestamp() - $5::interval END
    ORDER BY a.updated_at LIMIT $6
    FOR UPDATE OF a SKIP LOCKED
), taken AS (
    UPDATE active AS a SET sent_offset = NULL, sent_partition = NULL, claim = NULL, lease_until = NULL,
        updated_at = clock_timestamp()
    FROM picked WHERE a.stream = picked.stream
    RETURNING a.run_no, a.stream, a.version
)
SELECT e.run_no, e.stream, e.seq, e.id, e.kind, e.type, e.topic, e.body, e.at, e.cause, e.correlation,
       false AS outbound
FROM taken AS t JOIN event AS e ON e.run_no = t.run_no AND e.stream = t.stream AND e.seq = t.version

-- name: unsent_facts
-- Take over outbound facts that nobody has had acknowledged in time.
WITH picked AS (
    SELECT o.event_id FROM outbox AS o WHERE o.try_after < clock_timestamp() ORDER BY o.try_after LIMIT $2
    FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE outbox AS o SET try_after = clock_timestamp() + $1::interval
    FROM picked WHERE o.event_id = picked.event_id
    RETURNING o.run_no, o.stream, o.seq, o.topic
)
SELECT e.run_no, e.stream, e.seq, e.id, e.kind, e.type, t.topic, e.body, e.at, e.cause, e.correlation,
       true AS outbound
FROM taken AS t JOIN event AS e ON e.run_no = t.run_no AND e.stream = t.stream AND e.seq = t.seq

-- name: overdue
-- Questions of running runs past their deadline without an answer, and the open rollouts of answered ones.
SELECT a.run_no, a.stream, a.version, a.kind FROM active AS a
JOIN run AS r ON r.run_no = a.run_no AND r.state IN ('running', 'closing')
WHERE a.kind = 2 AND a.deadline < clock_timestamp() AND a.status NOT IN ('grading', 'consolidating')
UNION ALL
SELECT a.run_no, a.stream, a.version, a.kind FROM active AS q
JOIN active AS a ON a.parent = q.stream AND a.kind = 1
JOIN run AS r ON r.run_no = q.run_no AND r.state IN ('running', 'closing')
WHERE q.kind = 2 AND q.deadline < clock_timestamp() AND q.status = 'grading'
LIMIT $1

-- name: urgent
-- Commands of questions that somebody is waiting for, which nobody holds; the oldest question first.
SELECT a.stream, a.version, a.topic FROM question AS q
JOIN run AS r ON r.run_no = q.run_no AND r.state IN ('running', 'closing')
JOIN active AS a ON a.parent = q.id
WHERE q.urgent AND NOT q.closed AND a.topic = ANY ($1)
  AND (a.due_at IS NULL OR a.due_at <= clock_timestamp())
  AND (a.claim IS NULL OR a.lease_until < clock_timestamp())
ORDER BY q.accepted_at, a.kind, a.stream LIMIT $2

-- name: due_runs
-- Runs with a batch whose linger or deadline has passed, that are closing, or in which questions wait while others
-- may have nothing left to do but wait for a label.
SELECT DISTINCT r.run_no FROM run AS r LEFT JOIN batch AS b ON b.run_no = r.run_no AND b.status IN ('filling', 'open')
WHERE r.state = 'closing' OR r.state = 'running' AND (
    b.first_at + r.batch_linger < clock_timestamp() OR b.opened_at + r.batch_deadline < clock_timestamp()
    OR r.label_wait IS NOT NULL AND EXISTS (
        SELECT FROM question AS q WHERE q.run_no = r.run_no AND q.status = 'waiting'))

-- name: load
-- An unfinished stream as it stands.
SELECT a.stream, a.version, 0::bigint AS claim, a.kind, a.run_no, a.status, coalesce(a.topic, '') AS topic,
       coalesce(a.pending, '00000000-0000-0000-0000-000000000000'::uuid) AS event_id, a.parent, a.attempt,
       a.failures, a.isolated_deaths, true AS begun,
       ARRAY(SELECT e.body FROM event AS e WHERE e.run_no = a.run_no AND e.stream = a.stream ORDER BY e.seq) AS history
FROM active AS a WHERE a.stream = $2 AND a.run_no = $1

-- name: run
-- A run by number.
SELECT run_no, id, name, scope, manifest, state FROM run WHERE run_no = $1

-- name: run_named
-- A run by name.
SELECT run_no, id, name, scope, manifest, state FROM run WHERE name = $1

-- name: question
-- A question with the payload that asked it.
SELECT q.source, q.row, q.pass_no, q.pos, e.body AS asked FROM question AS q
JOIN event AS e ON e.run_no = q.run_no AND e.stream = q.id AND e.seq = 1
WHERE q.id = $1

-- name: rollouts
-- A question's rollouts with their histories.
SELECT r.number, r.id, r.phase = 3 AS ended,
       ARRAY(SELECT e.body FROM event AS e WHERE e.run_no = r.run_no AND e.stream = r.id ORDER BY e.seq) AS history
FROM rollout AS r WHERE r.question = $1 ORDER BY r.number

-- name: consolidated
-- What a batch's ended questions left for memory, by position.
SELECT q.id, q.pos, (SELECT e.body FROM event AS e WHERE e.run_no = q.run_no AND e.stream = q.id
                     AND e.type = 'question.consolidated' ORDER BY e.seq DESC LIMIT 1) AS body
FROM question AS q JOIN run AS r ON r.run_no = q.run_no
WHERE r.id = $1 AND q.batch = $2 ORDER BY q.pos

-- name: candidates
-- Groups that a batch could train from, by position.
SELECT t.id, t.pos, t.batch, t.policy FROM run AS r CROSS JOIN LATERAL trainable(r.run_no) AS t
WHERE r.id = $1 AND (t.batch IS NULL OR t.batch <= $2)
ORDER BY t.pos

-- name: parent
-- The version that serves a run, with its artifacts; none for the base model.
SELECT r.policy, encode(p.adapter_sha, 'hex') AS adapter, encode(p.optimizer_sha, 'hex') AS optimizer
FROM run AS r LEFT JOIN policy AS p ON p.run_no = r.run_no AND p.name = r.policy WHERE r.id = $1

-- name: group_rollouts
-- The rollouts of ended groups with their histories.
SELECT q.id AS question, q.pos, o.id, o.number,
       ARRAY(SELECT e.body FROM event AS e WHERE e.run_no = o.run_no AND e.stream = o.id ORDER BY e.seq) AS history
FROM question AS q JOIN rollout AS o ON o.question = q.id WHERE q.id = ANY ($1) ORDER BY q.pos, o.number

-- name: planner_calls
-- What the planner replied in the rollouts of ended groups, by their commands' topics ($2).
SELECT e.stream, e.topic, f.event_id, f.ordinal, f.result FROM rollout AS o
JOIN event AS e ON e.run_no = o.run_no AND e.stream = o.id AND e.topic = ANY ($2)
JOIN effect AS f ON f.run_no = e.run_no AND f.event_id = e.id AND f.kind = 'call'
WHERE o.question = ANY ($1) ORDER BY e.stream, e.seq, f.ordinal

-- name: dead_letter
-- Record a dead letter once, with its event and the outbound fact.
WITH letter AS (
    INSERT INTO dead_letter (id, run_no, stream, event_id, error_class, message, origin, attempts, sha256, at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING RETURNING id
), bytes AS (
    INSERT INTO sealed.dead_letter (id, record, headers) SELECT l.id, $11, $12::jsonb FROM letter AS l
), fact AS (
    INSERT INTO outbox (event_id, run_no, stream, seq, topic, try_after)
    SELECT $13, $2, l.id, 1, 'mia.dead-letter', $10 + interval '2 seconds' FROM letter AS l
)
SELECT append_event($2, l.id, 6::smallint, 1, decode(repeat('00', 32), 'hex'), $13, 'dead_letter',
                    'mia.dead-letter', $14, $10, $4, NULL) FROM letter AS l

-- name: topics_created
-- Topics that were made anew: when, and what was sent to them before is sent again.
WITH made AS (
    INSERT INTO topic (name, created_at) SELECT unnest($1::text[]), clock_timestamp()
    ON CONFLICT (name) DO UPDATE SET created_at = excluded.created_at
)
UPDATE active SET sent_offset = NULL, sent_partition = NULL, updated_at = clock_timestamp()
WHERE topic = ANY ($1) AND sent_offset IS NOT NULL

-- name: new_worker
-- A number for this process, so that its claims are its own.
INSERT INTO worker (name) VALUES ($1) RETURNING worker_no
