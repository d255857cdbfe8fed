-- name: lock_scope
-- Make the scope if it is new and lock it: generations are written one at a time.
INSERT INTO memory_scope (scope) VALUES ($1) ON CONFLICT (scope) DO UPDATE SET scope = excluded.scope
RETURNING generation, held, writes + 1 AS number

-- name: standing
-- The newest version of some memories; no text when it is no longer in use.
SELECT DISTINCT ON (m.id) m.dedupe_key, m.version, CASE WHEN m.until_gen IS NULL THEN m.text END AS text, m.from_gen,
       m.brought_uses AS uses, m.brought_wins AS wins
FROM memory AS m WHERE m.id = ANY ($1) ORDER BY m.id, m.version DESC

-- name: retire
-- The versions that end with a generation.
UPDATE memory SET until_gen = $2 WHERE id = ANY ($1) AND until_gen IS NULL

-- name: insert
-- New versions.
INSERT INTO memory (id, version, scope, dedupe_key, outcome, text, question, plan, category, caption, data_id, trust,
                    embedding, words, brought_uses, brought_wins, causes, from_gen, at)
SELECT m.id, m.version, $1, m.dedupe_key, m.outcome, m.text, m.question, m.plan, m.category, m.caption, m.data_id,
       m.trust, m.embedding::halfvec, array_to_tsvector(string_to_array(m.words, ' ')), m.uses, m.wins,
       string_to_array(m.causes, ',')::uuid[], $2, $3
FROM unnest($4::uuid[], $5::int[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
            $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::int[], $18::int[], $19::text[])
    AS m (id, version, dedupe_key, outcome, text, question, plan, category, caption, data_id, trust, embedding, words,
          uses, wins, causes)

-- name: credit
-- One credit per memory and question, the first that is written.
INSERT INTO memory_credit (memory, question, gen, won)
SELECT c.memory, c.question, $1, c.won FROM unnest($2::uuid[], $3::uuid[], $4::boolean[]) AS c (memory, question, won)
ON CONFLICT DO NOTHING

-- name: evict
-- Retire the weakest memories of a scope, never those of the generation that is being written.
WITH weakest AS (
    SELECT m.id, m.version
    FROM memory AS m
    CROSS JOIN LATERAL (
        SELECT count(*) AS uses, count(*) FILTER (WHERE c.won) AS wins FROM memory_credit AS c WHERE c.memory = m.id
    ) AS record
    WHERE m.scope = $1 AND m.until_gen IS NULL AND m.from_gen < $2
    ORDER BY (record.wins + m.brought_wins + 1)::float8 / (record.uses + m.brought_uses + 2), m.from_gen,
             m.dedupe_key COLLATE "C"
    LIMIT $3
), retired AS (
    UPDATE memory AS m SET until_gen = $2 FROM weakest AS w WHERE m.id = w.id AND m.version = w.version
    RETURNING 1
)
SELECT count(*) FROM retired

-- name: written
-- The scope as a write leaves it, and the write.
WITH scoped AS (
    UPDATE memory_scope SET generation = greatest(generation, $2), held = $3, writes = $4 WHERE scope = $1
)
INSERT INTO memory_write (scope, number, generation, run_no, event_id, cap) VALUES ($1, $4, $2, $5, $6, $7)

-- name: scope
-- The newest generation of a scope and how many memories are in use.
SELECT generation, held FROM memory_scope WHERE scope = $1

-- name: search_by_index
-- For this transaction: indexes open the search, and the vector index goes on until the filters are met.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),
       set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', $1, true),
       set_config('hnsw.max_scan_tuples', $2, true)

-- name: search_by_index_no_more
-- Back to what the planner does by itself.
SELECT set_config('enable_seqscan', 'on', true), set_config('enable_sort', 'on', true)

-- name: recall_exact
-- The best memories of each outcome as of a generation: every memory is scored; ties by key.
SELECT r.id, r.version, r.text, r.question, r.outcome, r.score
FROM (
    SELECT s.*, row_number() OVER (PARTITION BY s.outcome ORDER BY s.score DESC, s.dedupe_key COLLATE "C") AS place
    FROM (
        SELECT m.id, m.version, m.text, m.question, m.outcome, m.dedupe_key,
               round((0.7 * m.near + 0.3::float8 * (record.wins + m.brought_wins + 1) / (record.uses + m.brought_uses + 1)
                      + $9::float8 / (record.uses + m.brought_uses + 1)) * 1e6) / 1e6 AS score
        FROM (
            SELECT x.*,
                   round(CASE WHEN cardinality($8::text[]) = 0 THEN greatest(0, 1 - (x.embedding <=> $2::halfvec))
                         ELSE 0.8 * greatest(0, 1 - (x.embedding <=> $2::halfvec))
                              + 0.2 * (length(x.words) - length(ts_delete(x.words, $8))) / cardinality($8)::float8
                         END * 1e6) / 1e6 AS near
            FROM memory AS x
            WHERE x.scope = $1 AND x.from_gen <= $3 AND (x.until_gen IS NULL OR x.until_gen > $3)
              AND (cardinality($7::text[]) = 0 OR x.trust = ANY ($7))
        ) AS m
        CROSS JOIN LATERAL (
            SELECT count(*) AS uses, count(*) FILTER (WHERE c.won) AS wins
            FROM memory_credit AS c WHERE c.memory = m.id AND c.gen <= $3
        ) AS record
        WHERE m.near >= $6
    ) AS s
) AS r
WHERE r.place <= CASE r.outcome WHEN 'success' THEN $4::int ELSE $5::int END
ORDER BY r.outcome DESC, r.place

-- name: candidates
-- The nearest of each outcome by the vector index, and those that share most words by the text index, with what a score
-- is made of. `reached`: how many of the outcome the vector index brought.
WITH near AS MATERIALIZED (
    SELECT n.id, n.version, o.outcome
    FROM (VALUES ('success'), ('failure')) AS o (outcome)
    CROSS JOIN LATERAL (
        SELECT y.id, y.version
        FROM memory AS y
        WHERE y.scope = $1 AND y.outcome = o.outcome AND y.from_gen <= $3
          AND (y.until_gen IS NULL OR y.until_gen > $3)
        ORDER BY y.embedding <=> $2::halfvec LIMIT $6
    ) AS n
), found AS (
    SELECT n.id, n.version FROM near AS n
    UNION
    SELECT w.id, w.version
    FROM (
        SELECT z.id, z.version
        FROM memory AS z
        WHERE z.words @@ $5::text::tsquery AND z.scope = $1 AND z.from_gen <= $3
          AND (z.until_gen IS NULL OR z.until_gen > $3)
        ORDER BY length(ts_delete(z.words, $4::text[])) - length(z.words), z.dedupe_key COLLATE "C"
        LIMIT $6
    ) AS w
)
SELECT x.id, x.version, x.text, x.question, x.outcome, x.dedupe_key, 1 - (x.embedding <=> $2::halfvec) AS cosine,
       length(x.words) - length(ts_delete(x.words, $4)) AS shared,
       record.uses + x.brought_uses AS uses, record.wins + x.brought_wins AS wins,
       (SELECT count(*) FROM near AS n WHERE n.outcome = x.outcome) AS reached
FROM found AS f
JOIN memory AS x ON x.id = f.id AND x.version = f.version
CROSS JOIN LATERAL (
    SELECT count(*) AS uses, count(*) FILTER (WHERE c.won) AS wins
    FROM memory_credit AS c WHERE c.memory = x.id AND c.gen <= $3
) AS record
