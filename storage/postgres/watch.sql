-- name: events
-- A run's events since a moment, of some types (all for none), oldest first.
SELECT e.id, e.stream, e.seq, e.kind, e.type, e.at, e.correlation, e.body FROM event AS e
WHERE e.run_no = $1 AND e.at >= $2 AND (cardinality($3::text[]) = 0 OR e.type = ANY ($3))
ORDER BY e.at, e.kind DESC, e.stream, e.seq

-- name: questions
-- A run's questions with what became of them, by position.
SELECT q.id, q.pos, q.batch, q.source, q.row, q.status, q.answer, q.reason, q.grade, q.official, q.g, q.closed,
       (SELECT convert_from(e.body, 'UTF8')::jsonb ->> 'text' FROM event AS e
        WHERE e.run_no = q.run_no AND e.stream = q.id AND e.seq = 1) AS text
FROM question AS q WHERE q.run_no = $1 ORDER BY q.pos

-- name: gold
-- The newest label of each question of a run; for the auditor's role.
SELECT DISTINCT ON (l.question) l.question, l.value FROM sealed.label AS l JOIN question AS q ON q.id = l.question
WHERE q.run_no = $1 ORDER BY l.question, l.at DESC, l.id

-- name: memories
-- The newest memories of a scope, with how often they served and how often that went well.
SELECT m.id, m.version, m.outcome, m.question, m.text, m.from_gen, m.at,
       (SELECT count(*) FROM memory_credit AS c WHERE c.memory = m.id) AS uses,
       (SELECT count(*) FROM memory_credit AS c WHERE c.memory = m.id AND c.won) AS wins
FROM memory AS m WHERE m.scope = $1 AND m.until_gen IS NULL ORDER BY m.at DESC, m.id LIMIT $2

-- name: standing
-- How far the questions of one source of a run are; `lag` counts the run's commands that wait.
SELECT count(*) AS accepted, count(*) FILTER (WHERE q.closed) AS ended,
       count(*) FILTER (WHERE q.status = 'answered') AS answered, count(*) FILTER (WHERE q.status = 'failed') AS failed,
       count(*) FILTER (WHERE q.grade = 'correct') AS correct,
       count(*) FILTER (WHERE q.grade IN ('correct', 'incorrect', 'not_attempted')) AS graded,
       (SELECT count(*) FROM active AS a WHERE a.run_no = $1 AND a.topic IS NOT NULL AND a.claim IS NULL) AS lag
FROM question AS q WHERE q.run_no = $1 AND q.source = $2

-- name: labels
-- How many labels some questions have; never what they say.
SELECT l.question, count(*) AS n FROM label AS l WHERE l.question = ANY ($1) GROUP BY l.question

-- name: waiting_facts
-- How many outbound facts the broker has not acknowledged yet.
SELECT count(*) FROM outbox
