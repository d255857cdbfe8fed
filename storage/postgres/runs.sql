-- name: create
-- A new run; nothing when the name is taken.
INSERT INTO run (id, name, tenant, scope, mode, state, manifest, rollouts, batch_size, lag, max_in_flight,
                 question_deadline, batch_linger, batch_deadline, version, head, created_at)
VALUES ($1, $2, $3, $4, $5, 'running', $6, $7, $8, $9, $10, $11, $12, $13, 1, $14, $15)
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

-- name: freeze
-- Deadlines and delays moved by the length of a pause; what waits is to be sent again.
UPDATE active SET deadline = deadline + $2, due_at = due_at + $2,
    sent_offset = CASE WHEN claim IS NULL THEN NULL ELSE sent_offset END,
    sent_partition = CASE WHEN claim IS NULL THEN NULL ELSE sent_partition END
WHERE run_no = $1

-- name: freeze_batches
-- Batch timers moved by the length of a pause.
UPDATE batch SET first_at = first_at + $2, opened_at = opened_at + $2 WHERE run_no = $1 AND status <> 'ended'

-- name: open_streams
-- Unfinished questions of a run.
SELECT stream FROM active WHERE run_no = $1 AND kind = 2

-- name: force_open
-- Open a waiting question at once, so that it can be ended.
SELECT id FROM question WHERE run_no = $1 AND status = 'waiting'

-- name: counts
-- Questions of a run by status.
SELECT status, count(*) AS n FROM question WHERE run_no = $1 GROUP BY status ORDER BY status
