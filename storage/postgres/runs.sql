-- name: create
-- A new run; nothing when the name is taken.
INSERT INTO run (id, name, tenant, scope, mode, state, manifest, rollouts, batch_size, lag, max_in_flight,
                 question_deadline, batch_linger, batch_deadline, version, head, created_at, trains, staleness,
                 label_wait)
VALUES ($1, $2, $3, $4, $5, 'running', $6, $7, $8, $9, $10, $11, $12, $13, 1, $14, $15, $16, $17, $18)
ON CONFLICT (name) DO NOTHING RETURNING run_no

-- name: start_learner
-- The learner's stream of a run with batches.
INSERT INTO active (stream, run_no, kind, status, version, head, updated_at) VALUES ($1, $2, 4, 'idle', 1, $3, $4)

-- name: list
-- All runs, newest first.
SELECT r.run_no, r.id, r.name, r.tenant, r.mode, r.state, r.accepted, r.opened, r.ended, r.sealed_gen, r.rollouts,
       r.batch_size, r.lag, r.policy, r.created_at, r.finished_at, r.scope
FROM run AS r WHERE r.run_no > 0 ORDER BY r.run_no DESC

-- name: lock
-- A run, locked behind its learner.
SELECT r.* FROM run AS r WHERE r.name = $1 FOR UPDATE

-- name: lock_learner
-- The learner of a run, locked before the run.
SELECT FROM active AS a JOIN run AS r ON r.run_no = a.run_no AND r.name = $1 WHERE a.kind = 4 FOR UPDATE OF a

-- name: set_state
-- A run's new state, version and head.
UPDATE run SET state = $2, version = $3, head = $4, paused_at = $5,
    finished_at = CASE WHEN $2 = 'ended' THEN $6 ELSE finished_at END
WHERE run_no = $1

-- name: has_version
-- Whether a version is registered.
SELECT EXISTS (SELECT FROM policy AS p WHERE p.run_no = $1 AND p.name = $2)

-- name: set_policy
-- What serves a run from here on ($2, numbered $4); what it goes back from ($3) is rolled back.
WITH turned AS (
    UPDATE policy AS p SET state = CASE WHEN p.name = $2 THEN 'promoted' ELSE 'rolled_back' END
    WHERE p.run_no = $1 AND (p.name = $2 OR p.name = $3 AND p.number > $4)
), pinned AS (
    -- What has not opened yet opens on it, whatever generation it is pinned to.
    UPDATE generation AS g SET policy = $2 WHERE g.run_no = $1 AND g.number > 0
), first AS (
    INSERT INTO generation (run_no, number, policy) VALUES ($1, 0, $2)
    ON CONFLICT (run_no, number) DO UPDATE SET policy = excluded.policy
)
UPDATE run AS r SET policy = $2 WHERE r.run_no = $1

-- name: announce
-- A run's event as an outbound fact; sweepers publish it.
INSERT INTO outbox (event_id, run_no, stream, seq, topic, try_after) VALUES ($1, $2, $3, $4, $5, $6)

-- name: freeze
-- Deadlines and delays moved by the length of a pause; what waits is to be sent again.
UPDATE active SET deadline = deadline + $2, due_at = due_at + $2,
    sent_offset = CASE WHEN claim IS NULL THEN NULL ELSE sent_offset END,
    sent_partition = CASE WHEN claim IS NULL THEN NULL ELSE sent_partition END
WHERE run_no = $1

-- name: freeze_batches
-- Batch timers moved by the length of a pause.
UPDATE batch SET first_at = first_at + $2, opened_at = opened_at + $2 WHERE run_no = $1 AND status <> 'ended'

-- name: counts
-- Questions of a run by status.
SELECT status, count(*) AS n FROM question WHERE run_no = $1 GROUP BY status ORDER BY status

-- name: find_question
-- Where a question belongs, and how far it is.
SELECT q.run_no, r.name, r.state, q.status, q.closed FROM question AS q JOIN run AS r ON r.run_no = q.run_no WHERE q.id = $1

-- name: unfinished
-- A run's questions that have not ended, waiting ones included, in order.
SELECT q.id FROM question AS q WHERE q.run_no = $1 AND NOT q.closed ORDER BY q.pos

-- name: wake
-- Give a waiting question a row to be ended by. Its deadline is now: should the caller die before it ends the
-- question, a sweeper does.
WITH woken AS (
    UPDATE question SET status = 'open', opened_at = $2 WHERE id = $1 AND status = 'waiting'
    RETURNING id, run_no, head
), counted AS (
    UPDATE run AS r SET opened = r.opened + 1 FROM woken AS w WHERE r.run_no = w.run_no
)
INSERT INTO active (stream, run_no, kind, status, version, head, pending, parent, deadline, updated_at)
SELECT w.id, w.run_no, 2, 'waiting', 1, w.head, e.id, w.id, $2, $2
FROM woken AS w JOIN event AS e ON e.run_no = w.run_no AND e.stream = w.id AND e.seq = 1
ON CONFLICT DO NOTHING

-- name: open_rollouts
-- The unfinished rollouts of a question.
SELECT stream FROM active WHERE parent = $1 AND kind = 1 ORDER BY stream

-- name: end_learner
-- The learner of a run that is over learns nothing more.
DELETE FROM active WHERE run_no = $1 AND kind = 4

-- name: place_of_source
-- One accepted question of a source, and the position that a new source would begin at.
SELECT q.row, q.pos, r.next_pos FROM run AS r
LEFT JOIN LATERAL (SELECT x.row, x.pos FROM question AS x WHERE x.run_no = r.run_no AND x.source = $2 LIMIT 1) AS q ON true
WHERE r.run_no = $1
