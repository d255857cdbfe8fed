-- name: ends
-- A run's questions by what became of them.
SELECT q.status, q.closed, q.reason, q.grade, count(*) AS n FROM question AS q WHERE q.run_no = $1
GROUP BY q.status, q.closed, q.reason, q.grade

-- name: grades
-- Grades by judge; a supervised one scores against the gold answer too.
SELECT p.payload ->> 'judge' AS judge, p.payload -> 'parts' ? 'em' AS supervised, p.payload ->> 'grade' AS grade,
       coalesce(r.number = q.official, false) AS official, count(*) AS n
FROM event AS e
JOIN rollout AS r ON r.id = e.stream JOIN question AS q ON q.id = r.question
CROSS JOIN LATERAL (SELECT convert_from(e.body, 'UTF8')::jsonb AS payload) AS p
WHERE e.run_no = $1 AND e.type = 'rollout.judged' AND e.body IS NOT NULL
GROUP BY 1, 2, 3, 4

-- name: answers
-- Ended questions that have a label, with their newest one. For the auditor's role.
SELECT q.answer, (SELECT l.value FROM sealed.label AS l WHERE l.question = q.id ORDER BY l.at DESC, l.id LIMIT 1) AS gold
FROM question AS q
WHERE q.run_no = $1 AND q.closed AND EXISTS (SELECT FROM label AS l WHERE l.question = q.id)

-- name: events
-- A run's events by type: how many, and how many of them were a worker's step.
SELECT e.type, count(*) AS n, count(e.claim) AS steps FROM event AS e WHERE e.run_no = $1 GROUP BY e.type

-- name: tools
-- Tool calls by tool.
SELECT convert_from(e.body, 'UTF8')::jsonb ->> 'tool' AS tool, count(*) AS n FROM event AS e
WHERE e.run_no = $1 AND e.type = 'turn.tool_called' AND e.body IS NOT NULL GROUP BY 1

-- name: tokens
-- Model calls and their tokens by the stage that made them. For the auditor's role: the judge's are sealed.
SELECT e.topic AS stage, count(*) AS calls, sum((f.reply ->> 'prompt_tokens')::bigint) AS prompt,
       sum((f.reply ->> 'completion_tokens')::bigint) AS completion
FROM (
    SELECT event_id, convert_from(result, 'UTF8')::jsonb AS reply FROM effect
    WHERE run_no = $1 AND kind = 'call' AND result IS NOT NULL
    UNION ALL
    SELECT event_id, convert_from(result, 'UTF8')::jsonb FROM sealed.effect
    WHERE run_no = $1 AND kind = 'call' AND result IS NOT NULL
) AS f
JOIN event AS e ON e.run_no = $1 AND e.id = f.event_id
GROUP BY e.topic

-- name: times
-- Seconds from a command to the step that handled it, waiting included, by stage.
SELECT c.topic AS stage, count(*) AS n, sum(s.seconds)::float8 AS total,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY s.seconds) AS p50,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY s.seconds) AS p95
FROM event AS e
JOIN event AS c ON c.run_no = $1 AND c.stream = e.stream AND c.seq = e.seq - 1 AND c.topic IS NOT NULL
CROSS JOIN LATERAL (SELECT extract(epoch FROM e.at - c.at)::float8 AS seconds) AS s
WHERE e.run_no = $1 AND e.claim IS NOT NULL
GROUP BY c.topic

-- name: latency
-- Seconds from a question's acceptance to its answer, and to its end.
SELECT count(q.answered_at) FILTER (WHERE q.status = 'answered') AS answered,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM q.answered_at - q.accepted_at)::float8)
           FILTER (WHERE q.status = 'answered') AS answer_p50,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM q.answered_at - q.accepted_at)::float8)
           FILTER (WHERE q.status = 'answered') AS answer_p95,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM q.ended_at - q.accepted_at)::float8) AS end_p50,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM q.ended_at - q.accepted_at)::float8) AS end_p95,
       extract(epoch FROM max(q.ended_at) - min(q.accepted_at))::float8 AS span
FROM question AS q WHERE q.run_no = $1

-- name: memory
-- Memory versions that each generation of a scope wrote, and how many of them are still the newest.
SELECT m.from_gen AS generation, count(*) AS written, count(*) FILTER (WHERE m.until_gen IS NULL) AS current,
       count(*) FILTER (WHERE m.outcome = 'success') AS successes
FROM memory AS m WHERE m.scope = $1 GROUP BY m.from_gen ORDER BY m.from_gen

-- name: uses
-- How many questions of a run used memories, and how often one of them was credited.
SELECT count(DISTINCT c.question) AS questions, count(*) AS credits, count(*) FILTER (WHERE c.won) AS won
FROM memory_credit AS c JOIN question AS q ON q.id = c.question WHERE q.run_no = $1

-- name: failures
-- Rollouts that ended without a grade, by reason.
SELECT convert_from(e.body, 'UTF8')::jsonb ->> 'reason' AS reason, count(*) AS n FROM event AS e
WHERE e.run_no = $1 AND e.type = 'rollout.failed' AND e.body IS NOT NULL GROUP BY 1

-- name: learning
-- What tells of learning ($2: types of events) in a run that trains.
SELECT e.kind, e.stream, e.seq, e.at, e.body FROM event AS e
WHERE e.run_no = $1 AND e.type = ANY ($2) AND e.body IS NOT NULL
  AND EXISTS (SELECT FROM event AS m WHERE m.run_no = $1 AND m.type = 'learner.merged')
