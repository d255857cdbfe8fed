-- name: listed
-- A scope's memories as of a generation (the newest for none), newest first, with their record. `$4`: with vectors.
SELECT m.id, m.version, m.outcome, m.question, m.text, m.plan, m.category, m.caption, m.data_id, m.trust, m.from_gen,
       m.until_gen, m.at, m.brought_uses + record.uses AS uses, m.brought_wins + record.wins AS wins,
       CASE WHEN $4 THEN m.embedding::text END AS vector
FROM memory AS m
CROSS JOIN LATERAL (
    SELECT count(*) AS uses, count(*) FILTER (WHERE c.won) AS wins
    FROM memory_credit AS c WHERE c.memory = m.id AND ($2::int IS NULL OR c.gen <= $2)
) AS record
WHERE m.scope = $1
  AND ($2::int IS NULL AND m.until_gen IS NULL
       OR m.from_gen <= $2 AND (m.until_gen IS NULL OR m.until_gen > $2))
ORDER BY m.from_gen DESC, m.at DESC, m.id LIMIT $3

-- name: versions
-- All versions of a memory, the first first, wherever it belongs.
SELECT m.id, m.version, m.scope, m.outcome, m.question, m.text, m.plan, m.category, m.caption, m.data_id, m.trust,
       m.from_gen, m.until_gen, m.at, m.brought_uses, m.brought_wins, m.causes
FROM memory AS m WHERE m.id = $1 ORDER BY m.version

-- name: credits
-- What a memory was credited with.
SELECT c.question, c.gen, c.won FROM memory_credit AS c WHERE c.memory = $1 ORDER BY c.gen, c.question

-- name: stats
-- A scope in numbers.
SELECT count(*) FILTER (WHERE m.until_gen IS NULL) AS in_use,
       count(*) FILTER (WHERE m.until_gen IS NULL AND m.outcome = 'success') AS successes,
       count(*) FILTER (WHERE m.until_gen IS NULL AND m.outcome = 'failure') AS failures,
       count(*) FILTER (WHERE m.until_gen IS NULL AND m.trust = 'imported') AS imported,
       count(*) AS versions,
       count(*) FILTER (WHERE m.until_gen IS NOT NULL) AS retired,
       count(*) FILTER (WHERE m.until_gen IS NOT NULL AND NOT EXISTS (
           SELECT FROM memory AS n WHERE n.id = m.id AND n.version = m.version + 1 AND n.from_gen = m.until_gen
       )) AS evicted,
       coalesce(sum(length(m.text)) FILTER (WHERE m.until_gen IS NULL), 0)::bigint AS characters,
       (SELECT count(*) FROM memory_credit AS c WHERE c.memory IN (SELECT x.id FROM memory AS x WHERE x.scope = $1)) AS uses,
       (SELECT count(*) FROM memory_credit AS c WHERE c.won AND c.memory IN (SELECT x.id FROM memory AS x WHERE x.scope = $1))
           AS wins,
       (SELECT s.generation FROM memory_scope AS s WHERE s.scope = $1) AS generation,
       (SELECT s.writes FROM memory_scope AS s WHERE s.scope = $1) AS writes
FROM memory AS m WHERE m.scope = $1
